// SPDX-License-Identifier: MIT
// Runs CUDA kernels on the CPU: included before a .cu file, which g++ then compiles as it is.
//
// A block's threads are fibres of one OS thread that take turns: each runs until it meets a barrier (or a warp
// operation) or ends, then the next; blocks run one after another. The order of turns is first to last, or random by
// seed: a kernel that lacks a barrier then computes something else. A barrier that not all threads reach, or that two
// threads reach in different places, is an error. Shared memory is filled with rubbish before each block. With
// AddressSanitizer a read or write beyond an array is an error, too. Not shown: races within one turn, limits of
// registers, speed.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#ifndef __x86_64__
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
// Static shared memory lies in a section of its own, which is filled with rubbish before each block; AddressSanitizer
// guards the ends of arrays in the usual sections only.
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ static __attribute__((section("cryoet_shared")))
extern "C" char __start_cryoet_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_cryoet_shared[] __attribute__((weak, visibility("hidden")));
#endif
#define __constant__ static
#define __launch_bounds__(...)
#define CRYOET_DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(emulation::dynamic_shared())

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
};

namespace emulation {

// What a fibre sees of itself and of the launch; set whenever it gets its turn.
struct Indices {
  uint3 thread, block;
  dim3 block_size, grid_size;
};
inline thread_local Indices indices;

}  // namespace emulation

#define threadIdx (emulation::indices.thread)
#define blockIdx (emulation::indices.block)
#define blockDim (emulation::indices.block_size)
#define gridDim (emulation::indices.grid_size)
constexpr int warpSize = 32;

namespace emulation {

#ifdef __x86_64__
extern "C" void cryoet_emulation_switch(void** from, void* to);
asm(R"(
.text
.local cryoet_emulation_switch
.type cryoet_emulation_switch, @function
cryoet_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#endif

// One thread of a block: what it waits for, and its own stack.
struct Fibre {
  enum State { ready, at_block_barrier, at_warp_barrier, ended };
  State state = ready;
  int line = 0;            // of the barrier it waits at
  unsigned warp_mask = 0;  // lanes that have to meet there
  uint3 index{};
#ifdef __x86_64__
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kStack = 512 << 10;
#else
constexpr std::size_t kStack = 64 << 10;
#endif
constexpr unsigned kMaxThreads = 1024;

struct Machine {
  char* stacks = nullptr;
  std::vector<Fibre> fibres;
  Fibre* running = nullptr;
  unsigned n_threads = 0;
#ifdef __x86_64__
  void* scheduler = nullptr;
#else
  ucontext_t scheduler;
#endif
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  std::vector<char> dynamic;
  std::uint64_t exchange[kMaxThreads] = {};  // one value a thread, for shuffles and votes
  std::string error;
};
inline thread_local Machine machine;

inline void* dynamic_shared() { return machine.dynamic.data(); }

inline void to_scheduler() {
  Fibre* self = machine.running;
#ifdef __x86_64__
  cryoet_emulation_switch(&self->stack_pointer, machine.scheduler);
#else
  swapcontext(&self->context, &machine.scheduler);
#endif
}

inline void fibre_main() {
  machine.body(machine.argument);
  machine.running->state = Fibre::ended;
  for (;;) to_scheduler();
}

inline void prepare(unsigned i) {
  Fibre& fibre = machine.fibres[i];
  char* stack = machine.stacks + i * kStack;
  fibre.state = Fibre::ready;
#ifdef __x86_64__
  void** top = reinterpret_cast<void**>(stack + kStack);
  *--top = nullptr;  // keeps the stack aligned as after a call
  *--top = reinterpret_cast<void*>(&fibre_main);
  for (int r = 0; r < 6; ++r) *--top = nullptr;
  fibre.stack_pointer = top;
#else
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = stack;
  fibre.context.uc_stack.ss_size = kStack;
  fibre.context.uc_link = nullptr;
  makecontext(&fibre.context, fibre_main, 0);
#endif
}

inline void resume(Fibre& fibre) {
  machine.running = &fibre;
  indices.thread = fibre.index;
#ifdef __x86_64__
  cryoet_emulation_switch(&machine.scheduler, fibre.stack_pointer);
#else
  swapcontext(&machine.scheduler, &fibre.context);
#endif
}

inline void block_barrier(int line) {
  machine.running->state = Fibre::at_block_barrier;
  machine.running->line = line;
  to_scheduler();
}

inline void warp_barrier(unsigned mask, int line) {
  machine.running->state = Fibre::at_warp_barrier;
  machine.running->line = line;
  machine.running->warp_mask = mask;
  to_scheduler();
}

inline bool fail(const std::string& message) {
  machine.error = message;
  return false;
}

// Let everybody go on who waits for nobody else any more; false where that is nobody.
inline bool release() {
  std::vector<Fibre>& all = machine.fibres;
  const unsigned n = machine.n_threads;
  bool moved = false;
  for (unsigned w = 0; w < n; w += 32)
    for (unsigned i = w; i < std::min(n, w + 32); ++i) {
      if (all[i].state != Fibre::at_warp_barrier) continue;
      bool whole = true;
      for (unsigned j = w; j < std::min(n, w + 32); ++j)
        if (all[i].warp_mask >> (j - w) & 1u)
          whole = whole && all[j].state == Fibre::at_warp_barrier && all[j].line == all[i].line;
      if (!whole) continue;
      for (unsigned j = w; j < std::min(n, w + 32); ++j)
        if (all[i].warp_mask >> (j - w) & 1u) all[j].state = Fibre::ready;
      moved = true;
    }
  if (moved) return true;
  int line = -1;
  bool some_ended = false;
  for (unsigned i = 0; i < n; ++i) {
    some_ended = some_ended || all[i].state == Fibre::ended;
    if (all[i].state == Fibre::ended) continue;
    if (all[i].state == Fibre::at_warp_barrier) return fail("a warp operation that not all its lanes reach");
    if (line >= 0 && all[i].line != line)
      return fail("threads wait at different barriers, lines " + std::to_string(line) + " and " +
                  std::to_string(all[i].line));
    line = all[i].line;
  }
  if (line >= 0 && some_ended) return fail("a barrier that not all threads reach, line " + std::to_string(line));
  for (unsigned i = 0; i < n; ++i)
    if (all[i].state == Fibre::at_block_barrier) {
      all[i].state = Fibre::ready;
      moved = true;
    }
  return moved;
}

// Shared memory holds no promise at the start of a block.
inline void spoil_shared(std::size_t dynamic) {
  constexpr char rubbish = static_cast<char>(0xCB);
  machine.dynamic.assign(dynamic, rubbish);
  machine.dynamic.shrink_to_fit();  // its end is where AddressSanitizer takes it to be
#ifndef __SANITIZE_ADDRESS__
  std::fill(__start_cryoet_shared, __stop_cryoet_shared, rubbish);
#endif
}

inline std::mutex one_launch;  // at a time: shared memory is there once

// All blocks of a launch. seed 0: threads take turns in order; else in an order drawn anew for each round.
inline bool run(dim3 grid, dim3 block, std::size_t shared, unsigned seed, void (*body)(void*), void* argument) {
  const std::lock_guard<std::mutex> alone(one_launch);
  Machine& m = machine;
  m.error.clear();
  m.n_threads = block.x * block.y * block.z;
  if (m.n_threads < 1 || m.n_threads > kMaxThreads || block.z > 64)
    return fail("a block has 1 to 1024 threads, and at most 64 along z");
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535)
    return fail("a grid has at least one block, and at most 65535 along y and z");
  if (m.stacks == nullptr) {
    void* memory = mmap(nullptr, kStack * kMaxThreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return fail("no memory for stacks");
    m.stacks = static_cast<char*>(memory);
  }
  m.fibres.resize(kMaxThreads);
  m.body = body;
  m.argument = argument;
  std::mt19937 random(seed);
  std::vector<unsigned> turn(m.n_threads);
  std::iota(turn.begin(), turn.end(), 0u);
  const unsigned long long blocks = 1ull * grid.x * grid.y * grid.z;
  for (unsigned long long b = 0; b < blocks; ++b) {
    spoil_shared(shared);
    const auto part = [](unsigned long long i) { return static_cast<unsigned>(i); };
    indices = {{}, {part(b % grid.x), part(b / grid.x % grid.y), part(b / grid.x / grid.y)}, block, grid};
    for (unsigned i = 0; i < m.n_threads; ++i) {
      prepare(i);
      m.fibres[i].index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    }
    for (bool more = true; more;) {
      if (seed) std::shuffle(turn.begin(), turn.end(), random);
      for (unsigned i : turn)
        if (m.fibres[i].state == Fibre::ready) resume(m.fibres[i]);
      more = release();
      if (!m.error.empty()) return false;
    }
  }
  return true;
}

// Everybody in the warp puts a value down and takes what `source` points at.
template <class T>
T exchange(unsigned mask, T value, unsigned source, int line) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "words of up to 8 bytes travel");
  const unsigned self = static_cast<unsigned>(machine.running - machine.fibres.data()), warp = self / 32 * 32;
  std::memcpy(&machine.exchange[self], &value, sizeof value);
  warp_barrier(mask, line);
  T got = value;
  if (mask >> (source & 31u) & 1u) std::memcpy(&got, &machine.exchange[warp + (source & 31u)], sizeof got);
  warp_barrier(mask, -line);
  return got;
}

inline unsigned lane() { return static_cast<unsigned>(machine.running - machine.fibres.data()) & 31u; }

inline unsigned ballot(unsigned mask, bool vote, int line) {
  const unsigned self = static_cast<unsigned>(machine.running - machine.fibres.data()), warp = self / 32 * 32;
  machine.exchange[self] = vote;
  warp_barrier(mask, line);
  unsigned all = 0;
  for (unsigned i = 0; i < 32; ++i)
    if (mask >> i & 1u) all |= static_cast<unsigned>(machine.exchange[warp + i] & 1u) << i;
  warp_barrier(mask, -line);
  return all;
}

template <class T>
T shuffle_down(unsigned mask, T value, unsigned by, int line) {
  return exchange(mask, value, lane() + by < 32 ? lane() + by : lane(), line);
}

template <class T>
T shuffle_up(unsigned mask, T value, unsigned by, int line) {
  return exchange(mask, value, lane() >= by ? lane() - by : lane(), line);
}

// Only one fibre runs at a time: a plain update is atomic.
template <class T, class Update>
T update(T* at, const Update& change) {
  const T old = *at;
  *at = change(old);
  return old;
}

template <class Kernel>
struct Launcher;

template <class... Arguments>
struct Launcher<void (*)(Arguments...)> {
  void (*kernel)(Arguments...);
  void** values;

  template <std::size_t... I>
  void call(std::index_sequence<I...>) const {
    kernel(*static_cast<std::decay_t<Arguments>*>(values[I])...);
  }
  static void body(void* self) { static_cast<Launcher*>(self)->call(std::index_sequence_for<Arguments...>{}); }

  // The size of each argument in bytes; how many there are.
  static int sizes(int* out) {
    const int all[] = {static_cast<int>(sizeof(std::decay_t<Arguments>))..., 0};
    std::copy(all, all + sizeof...(Arguments), out);
    return sizeof...(Arguments);
  }
};

}  // namespace emulation

#define __syncthreads() emulation::block_barrier(__LINE__)
#define __syncwarp(...) emulation::warp_barrier(0xffffffffu, __LINE__)
#define __shfl_sync(mask, value, source) emulation::exchange(mask, value, static_cast<unsigned>(source), __LINE__)
#define __shfl_xor_sync(mask, value, bits) emulation::exchange(mask, value, emulation::lane() ^ (bits), __LINE__)
#define __shfl_down_sync(mask, value, by) emulation::shuffle_down(mask, value, by, __LINE__)
#define __shfl_up_sync(mask, value, by) emulation::shuffle_up(mask, value, by, __LINE__)
#define __ballot_sync(mask, vote) emulation::ballot(mask, vote, __LINE__)
#define __any_sync(mask, vote) (emulation::ballot(mask, vote, __LINE__) != 0u)
#define __all_sync(mask, vote) (emulation::ballot(mask, vote, __LINE__) == (mask))

template <class T>
T atomicAdd(T* at, std::common_type_t<T> by) {
  return emulation::update(at, [&](T old) { return static_cast<T>(old + by); });
}
template <class T>
T atomicMax(T* at, std::common_type_t<T> other) {
  return emulation::update(at, [&](T old) { return std::max<T>(old, other); });
}
template <class T>
T atomicMin(T* at, std::common_type_t<T> other) {
  return emulation::update(at, [&](T old) { return std::min<T>(old, other); });
}
template <class T>
T __ldg(const T* at) {
  return *at;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
using std::max;
using std::min;

// Makes a kernel callable from Python: launch_NAME(grid, block, shared bytes, seed, pointers to arguments, error text).
#define EMULATED_KERNEL(name)                                                                                   \
  extern "C" int launch_##name(const unsigned* grid, const unsigned* block, std::size_t shared, unsigned seed,  \
                               void** values, char* error, int room) {                                          \
    emulation::Launcher<decltype(&name)> launcher{&name, values};                                               \
    const bool done = emulation::run({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared, seed, \
                                     decltype(launcher)::body, &launcher);                                      \
    if (!done) std::snprintf(error, static_cast<std::size_t>(room), "%s", emulation::machine.error.c_str());    \
    return done ? 0 : 1;                                                                                        \
  }                                                                                                             \
  extern "C" int sizes_##name(int* out) { return emulation::Launcher<decltype(&name)>::sizes(out); }
