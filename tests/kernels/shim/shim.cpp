// splat.cu on a CPU: enough of CUDA for g++ to compile the very same source, and a loop over blocks to run it.
//
// Each CUDA thread is a fiber (ucontext) and runs until it waits: at a barrier for its block, at a vote or shuffle for its
// warp. Who waits where is checked: a barrier or a warp operation that not all of its threads reach, or that they reach at
// different lines, ends the launch with a message. With SHIM_THREADS each CUDA thread is an OS thread instead, so that
// ThreadSanitizer sees races. With SHIM_MAIN the file is a program that runs recorded launches (shim.py), each array in
// a heap block of exactly its size, so that AddressSanitizer sees every access outside.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>
#ifdef SHIM_THREADS
#include <pthread.h>
#include <thread>
#else
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct Position { int x; };

constexpr int SHARED_BYTES = 96 * 1024;
float4 shared_memory[SHARED_BYTES / sizeof(float4)];

using std::max;
using std::min;

namespace shim {
enum State { READY, AT_BARRIER, AT_WARP, DONE };
struct Lane {  // one CUDA thread
    Position thread, block;
    State state;
    int line, operations;
    unsigned given[2];  // to the warp, in turn
#ifndef SHIM_THREADS
    ucontext_t context;
#endif
};
std::vector<Lane> lanes;
[[noreturn]] void fail(const std::string &what) { throw std::runtime_error(what); }

#ifdef SHIM_THREADS
thread_local Lane *current;
pthread_barrier_t block_barrier, warp_barriers[64];
void wait(State state, int) {
    pthread_barrier_wait(state == AT_BARRIER ? &block_barrier : &warp_barriers[current->thread.x / 32]);
}
#else
Lane *current;
ucontext_t scheduler;
void wait(State state, int line) {
    current->state = state, current->line = line;
    swapcontext(&current->context, &scheduler);
}
#endif

void barrier(int line) { wait(AT_BARRIER, line); }

// Each lane gives a word and gets the array of its warp's words.
template <typename Combine>
auto warp_operation(unsigned mask, unsigned given, int line, Combine combine) {
    if (mask != 0xffffffffu) fail("a warp operation of a part of the warp is not supported");
    const int turn = current->operations++ % 2, warp = current->thread.x / 32 * 32;
    current->given[turn] = given;
    wait(AT_WARP, line);
    return combine([=](int lane) { return lanes[warp + lane].given[turn]; });
}
}  // namespace shim

#define threadIdx (shim::current->thread)
#define blockIdx (shim::current->block)
#define __syncthreads() shim::barrier(__LINE__)
#define __ballot_sync(mask, vote) shim::ballot(mask, vote, __LINE__)
#define __shfl_xor_sync(mask, value, step) shim::shuffle(mask, value, step, __LINE__)

inline unsigned __float_as_uint(float value) { unsigned bits; return std::memcpy(&bits, &value, 4), bits; }
inline float __uint_as_float(unsigned bits) { float value; return std::memcpy(&value, &bits, 4), value; }
inline float __fdividef(float a, float b) { return a / b; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }

namespace shim {
inline unsigned ballot(unsigned mask, bool vote, int line) {
    return warp_operation(mask, vote, line, [](auto given) {
        unsigned votes = 0;
        for (int lane = 0; lane < 32; ++lane) votes |= given(lane) << lane;
        return votes;
    });
}
template <typename T>
T shuffle(unsigned mask, T value, int step, int line) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    const int from = current->thread.x % 32 ^ step;
    bits = warp_operation(mask, bits, line, [=](auto given) { return given(from); });
    std::memcpy(&value, &bits, 4);
    return value;
}
}  // namespace shim

#include SPLAT_SOURCE

namespace shim {
using Kernel = void (*)(Task);
Kernel kernel;
const Task *argument;

Kernel find(const std::string &name) {
    if (name == "splat_forward") return splat_forward;
    if (name == "splat_backward_float32") return splat_backward_float32;
    if (name == "splat_backward_float16") return splat_backward_float16;
    if (name == "splat_backward_bfloat16") return splat_backward_bfloat16;
    fail("no kernel " + name);
}

#ifdef SHIM_THREADS
void run_block(int, bool) {
    pthread_barrier_init(&block_barrier, nullptr, lanes.size());
    for (size_t warp = 0; warp < lanes.size() / 32; ++warp) pthread_barrier_init(&warp_barriers[warp], nullptr, 32);
    std::vector<std::thread> threads;
    for (Lane &lane : lanes) threads.emplace_back([&lane] { current = &lane, kernel(*argument); });
    for (std::thread &thread : threads) thread.join();
}
#else
constexpr size_t STACK_BYTES = 128 * 1024;
std::vector<char> stacks;
void fiber() {
    kernel(*argument);
    current->state = DONE;
    swapcontext(&current->context, &scheduler);
}

std::string where(const Lane &lane) {
    const char *what[] = {"runs", "waits for its block", "waits for its warp", "has ended"};
    return "thread " + std::to_string(lane.thread.x) + " " + what[lane.state] + " (line " + std::to_string(lane.line) + ")";
}

// Let go of lanes first to first + count if all wait for the same; whether any was let go.
bool release(size_t first, size_t count, State state) {
    for (size_t i = first; i < first + count; ++i)
        if (lanes[i].state != state || lanes[i].line != lanes[first].line) return false;
    for (size_t i = first; i < first + count; ++i) lanes[i].state = READY;
    return true;
}

void run_block(int, bool descending) {
    stacks.resize(lanes.size() * STACK_BYTES);
    for (size_t i = 0; i < lanes.size(); ++i) {
        getcontext(&lanes[i].context);
        lanes[i].context.uc_stack.ss_sp = &stacks[i * STACK_BYTES];
        lanes[i].context.uc_stack.ss_size = STACK_BYTES;
        lanes[i].context.uc_link = nullptr;
        makecontext(&lanes[i].context, fiber, 0);
    }
    const size_t warps = lanes.size() / 32;
    for (;;) {
        bool moved = false;
        for (size_t i = 0; i < warps; ++i) {  // a warp goes on by itself until all of its lanes wait for the block
            const size_t first = (descending ? warps - 1 - i : i) * 32;
            do {
                for (size_t j = 0; j < 32; ++j) {
                    current = &lanes[first + (descending ? 31 - j : j)];
                    if (current->state == READY) swapcontext(&scheduler, &current->context), moved = true;
                }
            } while (release(first, 32, AT_WARP));
        }
        if (std::all_of(lanes.begin(), lanes.end(), [](const Lane &lane) { return lane.state == DONE; })) return;
        if (release(0, lanes.size(), AT_BARRIER)) continue;
        if (!moved) {
            for (const Lane &lane : lanes)
                if (lane.state != lanes[0].state || lane.line != lanes[0].line)
                    fail("divergent: " + where(lanes[0]) + ", " + where(lane));
            fail("divergent: " + where(lanes[0]));
        }
    }
}
#endif

void launch(const std::string &name, int blocks, int threads, int shared_bytes, const Task &task, bool descending) {
    if (threads % 32 || threads > 1024 || shared_bytes > SHARED_BYTES) fail("bad launch");
    kernel = find(name), argument = &task;
    char *const bytes = reinterpret_cast<char *>(shared_memory);
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(bytes, SHARED_BYTES);
#endif
    for (int block = 0; block < blocks; ++block) {
        std::memset(bytes, 0xff, SHARED_BYTES);  // NaN: shared memory holds nothing at first
#ifdef __SANITIZE_ADDRESS__
        ASAN_POISON_MEMORY_REGION(bytes + shared_bytes, SHARED_BYTES - shared_bytes);
#endif
        lanes.assign(threads, Lane());
        for (int i = 0; i < threads; ++i) lanes[i].thread.x = i, lanes[i].block.x = block;
        run_block(block, descending);
#ifdef __SANITIZE_ADDRESS__
        ASAN_UNPOISON_MEMORY_REGION(bytes, SHARED_BYTES);
#endif
    }
}
}  // namespace shim

// 0, or 1 with a message.
extern "C" int shim_launch(const char *name, int blocks, int threads, int shared, const Task *task, int descending, char *message) {
    try {
        shim::launch(name, blocks, threads, shared, *task, descending);
        return 0;
    } catch (const std::exception &error) {
        return std::snprintf(message, 256, "%s", error.what()), 1;
    }
}

extern "C" void shim_bits(const float *values, int count, unsigned short *float16, unsigned short *bfloat16) {
    for (int i = 0; i < count; ++i) float16[i] = float16_bits(values[i]), bfloat16[i] = bfloat16_bits(values[i]);
}

extern "C" void shim_read(const unsigned short *bits, int count, float *float16, float *bfloat16) {
    for (int i = 0; i < count; ++i) float16[i] = read<FLOAT16>(bits, i), bfloat16[i] = read<BFLOAT16>(bits, i);
}

#ifdef SHIM_MAIN
// A record: name (64 bytes), blocks, threads, shared bytes, arrays (int32 each), a Task, and for each array the offset of
// its pointer in the Task and its size (int64 each) and its bytes. The arrays' bytes are written back afterwards.
// A second argument, whatever it is, lets threads run in descending order.
int main(int count, char **arguments) {
    std::FILE *file = std::fopen(arguments[1], "rb");
    char name[64];
    int numbers[4];
    Task task;
    bool fine = file && std::fread(name, 64, 1, file) && std::fread(numbers, 16, 1, file) && std::fread(&task, sizeof task, 1, file);
    std::vector<void *> arrays;
    std::vector<long long> sizes;
    for (int i = 0; fine && i < numbers[3]; ++i) {
        long long place[2];
        fine = std::fread(place, 16, 1, file);
        void *bytes = std::malloc(place[1]);
        fine = fine && (!place[1] || std::fread(bytes, place[1], 1, file));
        std::memcpy(reinterpret_cast<char *>(&task) + place[0], &bytes, 8);
        arrays.push_back(bytes), sizes.push_back(place[1]);
    }
    if (!fine) return std::fputs("bad record\n", stderr), 2;
    std::fclose(file);
    try {
        shim::launch(name, numbers[0], numbers[1], numbers[2], task, count > 2);
    } catch (const std::exception &error) {
        return std::fprintf(stderr, "%s\n", error.what()), 3;
    }
    file = std::fopen(arguments[1], "wb");
    for (size_t i = 0; i < arrays.size(); ++i) std::fwrite(arrays[i], 1, sizes[i], file), std::free(arrays[i]);
    return std::fclose(file);
}
#endif
