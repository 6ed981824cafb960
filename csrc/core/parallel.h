// SPDX-License-Identifier: MIT
#pragma once

#include <omp.h>

#include <atomic>
#include <exception>
#include <mutex>

namespace cryoet {

// 0 asks for every core that this process may use (OMP_NUM_THREADS is honoured).
inline int thread_count(int asked) { return asked > 0 ? asked : omp_get_max_threads(); }

// Multiply-adds under which waking other threads costs more than they save, much more where the machine is busy.
constexpr long kWorthSharing = 1L << 20;

// body(i) for i in [0, n), shared out one by one; the first exception (out of memory) is carried to the caller. No
// result may depend on which thread runs what. work: multiply-adds in all, roughly.
template <class Body>
void parallel_for(long n, int threads, const Body& body, long work = kWorthSharing) {
  std::exception_ptr error;
  std::mutex mutex;
  std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic, 1) num_threads(thread_count(threads)) if (n > 1 && work >= kWorthSharing)
  for (long i = 0; i < n; ++i) {
    if (failed.load(std::memory_order_relaxed)) continue;
    try {
      body(i);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
      failed = true;
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace cryoet
