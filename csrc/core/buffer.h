// SPDX-License-Identifier: MIT
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace cryoet {

// Floats on a cache line boundary, zeroed when allocated; keeps its memory when a smaller size is asked for, since
// mapping tens of megabytes anew for each pass costs as much as the pass.
class Buffer {
 public:
  float* reserve(long n) {
    if (n > capacity_) {
      data_.reset();
      const std::size_t bytes = (static_cast<std::size_t>(n) * sizeof(float) + 63) / 64 * 64;
      data_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
      if (!data_) {
        capacity_ = 0;
        throw std::bad_alloc();
      }
      std::memset(data_.get(), 0, bytes);
      capacity_ = n;
    }
    return data_.get();
  }
  float* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> data_;
  long capacity_ = 0;
};

}  // namespace cryoet
