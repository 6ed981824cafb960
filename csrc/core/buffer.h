// SPDX-License-Identifier: MIT
#pragma once

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <utility>

namespace cryoet {

// Megabytes from the system, in huge pages where it has them, zeroed when they come. What one block gave back the next
// one takes: clearing and mapping the buffers of a block took as long as filtering it.
class PagePool {
 public:
  static constexpr std::size_t kHuge = 2 << 20;

  static PagePool& instance() {
    static PagePool& pool = *new PagePool;  // outlives every thread's buffers
    return pool;
  }

  // At least `bytes`; second: how many there are.
  std::pair<void*, std::size_t> take(std::size_t bytes) {
    bytes = (bytes + kHuge - 1) / kHuge * kHuge;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = free_.lower_bound(bytes);
      if (found != free_.end() && found->first <= 2 * bytes) {
        const std::pair<void*, std::size_t> region{found->second, found->first};
        free_.erase(found);
        return region;
      }
    }
    release();  // none fits: kept ones would only add to what is needed now
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return {memory, bytes};
  }

  void give_back(void* memory, std::size_t bytes) noexcept {
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      free_.emplace(bytes, memory);
    } catch (...) {
      munmap(memory, bytes);
    }
  }

  // Return to the system what nobody uses.
  void release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [bytes, memory] : free_) munmap(memory, bytes);
    free_.clear();
  }

 private:
  std::mutex mutex_;
  std::multimap<std::size_t, void*> free_;
};

// Floats on a cache line boundary; keeps its memory when a smaller size is asked for. The values are readable (zeros or
// what an earlier buffer held), so that kernels may work on whole vectors.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() { free(); }

  float* reserve(long n) {
    if (n > capacity_) {
      free();
      const std::size_t bytes = (static_cast<std::size_t>(n) * sizeof(float) + 63) / 64 * 64;
      if (bytes >= PagePool::kHuge) {
        const auto [memory, mapped] = PagePool::instance().take(bytes);
        data_ = static_cast<float*>(memory);
        mapped_ = mapped;
        capacity_ = static_cast<long>(mapped / sizeof(float));
      } else {
        data_ = static_cast<float*>(std::aligned_alloc(64, bytes));
        if (!data_) throw std::bad_alloc();
        std::memset(data_, 0, bytes);
        capacity_ = n;
      }
    }
    return data_;
  }
  float* data() const { return data_; }

 private:
  void free() noexcept {
    if (mapped_)
      PagePool::instance().give_back(data_, mapped_);
    else
      std::free(data_);
    data_ = nullptr;
    mapped_ = 0;
    capacity_ = 0;
  }
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(mapped_, other.mapped_);
    std::swap(capacity_, other.capacity_);
  }

  float* data_ = nullptr;
  std::size_t mapped_ = 0;
  long capacity_ = 0;
};

}  // namespace cryoet
