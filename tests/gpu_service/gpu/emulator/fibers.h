// The threads of a launch as fibers on one CPU thread, and what they wait for.
//
// A fiber runs until it waits: in a collective operation of its warp or block, which the last
// thread to arrive carries out for all; or in a spin loop, which calls yield(). When no fiber can
// run although some have not ended, the launch ends with an error that says who waits where.
// Blocks run one after the other; those of a cooperative launch are all alive at once.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#if !defined(__x86_64__) || defined(EMULATOR_UCONTEXT)  // the latter to test the slower way
#include <ucontext.h>
#endif

#define EMULATOR_HIDDEN __attribute__((visibility("hidden")))

struct alignas(4) uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
// Keeps what a call must keep (System V ABI: rbx, rbp, r12-r15, rsp) and goes on elsewhere.
extern "C" EMULATOR_HIDDEN void emulator_switch(void** from, void* to);
asm(R"(
    .text
    .hidden emulator_switch
    .type emulator_switch, @function
emulator_switch:
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
    .size emulator_switch, . - emulator_switch
)");
#endif

namespace emulator {

constexpr int WARP = 32;
constexpr size_t STACK_BYTES = 64 * 1024;
constexpr int STACKS_PER_MAP = 64;
constexpr unsigned long long STACK_CANARY = 0x5ca1ab1e0ddba11ull;
constexpr size_t SHARED_GUARD_BYTES = 1024;
constexpr int GUARD_PATTERN = 0xA5;
constexpr int POISON = 0xFF;  // NaN as float and half, -1 as int
constexpr long long MAX_IDLE_YIELDS = 20'000'000;

struct Context {
#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
    void* stack_pointer;
    void prepare(char* stack, void (*entry)()) {
        // As emulator_switch leaves it: six registers, where to return to, and a word so that the
        // entry finds its stack aligned as behind a call.
        void** top = reinterpret_cast<void**>(stack + STACK_BYTES) - 8;
        memset(top, 0, 8 * sizeof(void*));
        top[6] = reinterpret_cast<void*>(entry);
        stack_pointer = top;
    }
    static void swap(Context& from, Context& to) { emulator_switch(&from.stack_pointer, to.stack_pointer); }
#else
    ucontext_t state;
    void prepare(char* stack, void (*entry)()) {
        getcontext(&state);
        state.uc_stack.ss_sp = stack;
        state.uc_stack.ss_size = STACK_BYTES;
        state.uc_link = nullptr;
        makecontext(&state, entry, 0);
    }
    static void swap(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
#endif
};

struct Fiber;

// What the last thread to arrive does for all that wait: `members` are `count` fibers, of which
// those with has_arrived() take part. Two operations are the same if they are the same object.
struct Operation {
    const char* name;
    void (*apply)(Fiber* members, int count, const Operation* self, unsigned mask);
};

// Lanes of a warp that wait together.
struct Group {
    const Operation* operation;
    unsigned mask, arrived;
};

struct Warp {
    Fiber* first;
    unsigned live;
    int num_groups;
    Group groups[WARP];
};

struct Block {
    uint3 index;
    Fiber* fibers;
    Warp* warps;
    int num_live, num_waiting;
    const Operation* operation;
    char* shared;
};

// Copies that a thread began and has not waited for: they are done as late as they may be.
struct Copy {
    void* to;
    const void* from;
    int group;
};

constexpr int MAX_COPIES = 128;

struct Copies {
    int count;
    int group;  // of those that are begun now
    Copy items[MAX_COPIES];
};

struct Fiber {
    Copies copies;
    Context context;
    char* stack;  // null until it first runs
    Fiber* next;  // in a queue
    uint3 thread;
    int lane;
    Block* block;
    Warp* warp;
    const Operation* operation;  // that it waits for
    unsigned mask;
    void* exchange;  // what it brings to the operation and takes from it
    bool has_ended;
};

struct Queue {
    Fiber *head, *tail;
    void push(Fiber* fiber) {
        fiber->next = nullptr;
        (head ? tail->next : head) = fiber;
        tail = fiber;
    }
    Fiber* pop() {
        Fiber* fiber = head;
        if (fiber) head = fiber->next;
        return fiber;
    }
};

struct Launch {
    const char* kernel;
    void (*body)(void*);
    void* arguments;
    Fiber* fibers;
    int num_fibers, num_started, num_live;
    int num_threads;  // of a block
    bool is_backwards;
    dim3 grid, block;
    size_t shared_bytes;
    Queue ready, yielded;
    long long idle_yields;
    Context host;
    char error[1024];
};

// One launch at a time. Not static: the compiler must assume that a switch changes them.
EMULATOR_HIDDEN Fiber* current;
EMULATOR_HIDDEN Launch state;
EMULATOR_HIDDEN char **free_stacks, **all_stacks;
EMULATOR_HIDDEN int num_free_stacks, num_stacks;

// ---- ending with an error ---------------------------------------------------------------------

inline void set_error_text(const char* format, va_list arguments) {
    int length = snprintf(state.error, sizeof state.error, "kernel %s: ", state.kernel);
    if (current) {
        const uint3 b = current->block->index;
        length = snprintf(state.error, sizeof state.error, "kernel %s, block (%u, %u, %u), thread %u: ",
                          state.kernel, b.x, b.y, b.z, current->thread.x);
    }
    vsnprintf(state.error + length, sizeof state.error - length, format, arguments);
}

__attribute__((format(printf, 1, 2))) inline void set_error(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    set_error_text(format, arguments);
    va_end(arguments);
}

// Gives up the launch and all its fibers. Only kernels come here, never the host.
__attribute__((noreturn, noinline, format(printf, 1, 2))) inline void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    set_error_text(format, arguments);
    va_end(arguments);
    Context abandoned;
    Context::swap(abandoned, state.host);
    abort();
}

__attribute__((noreturn, noinline)) inline void fail_stuck() {
    // The first thread of every thing that is waited for, with the number of those that wait.
    char who[900];
    size_t length = 0;
    const Operation* seen[8];
    int num_seen = 0;
    for (int i = 0; i < state.num_fibers && num_seen < 8; i++) {
        const Fiber& fiber = state.fibers[i];
        bool is_new = !fiber.has_ended && fiber.operation;
        for (int s = 0; s < num_seen; s++) is_new = is_new && seen[s] != fiber.operation;
        if (!is_new) continue;
        seen[num_seen++] = fiber.operation;
        int count = 0;
        for (int j = 0; j < state.num_fibers; j++)
            count += !state.fibers[j].has_ended && state.fibers[j].operation == fiber.operation;
        length += snprintf(who + length, sizeof who - length,
                           "%s%d in %s (block %u, thread %u first)", num_seen > 1 ? ", " : "", count,
                           fiber.operation->name, fiber.block->index.x, fiber.thread.x);
        if (length >= sizeof who) break;
    }
    current = nullptr;
    fail("deadlock: %d threads have not ended and wait: %s", state.num_live, who);
}

// ---- who runs next ----------------------------------------------------------------------------

inline char* take_stack() {
    if (!num_free_stacks) {
        const size_t bytes = STACK_BYTES * STACKS_PER_MAP;
        void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (map == MAP_FAILED) abort();
        const size_t list_bytes = (num_stacks + STACKS_PER_MAP) * sizeof(char*);
        free_stacks = static_cast<char**>(realloc(free_stacks, list_bytes));
        all_stacks = static_cast<char**>(realloc(all_stacks, list_bytes));
        for (int i = 0; i < STACKS_PER_MAP; i++) {
            char* stack = static_cast<char*>(map) + i * STACK_BYTES;
            memcpy(stack, &STACK_CANARY, sizeof STACK_CANARY);
            free_stacks[num_free_stacks++] = all_stacks[num_stacks++] = stack;
        }
    }
    return free_stacks[--num_free_stacks];
}

// The place of the i-th of n: kernels must not depend on the order of threads and blocks.
inline long long in_order(long long i, long long n) { return state.is_backwards ? n - 1 - i : i; }

inline Fiber* pick() {
    if (Fiber* fiber = state.ready.pop()) {
        state.idle_yields = 0;
        return fiber;
    }
    if (state.num_started < state.num_fibers) {
        state.idle_yields = 0;
        return &state.fibers[in_order(state.num_started++, state.num_fibers)];
    }
    Fiber* fiber = state.yielded.pop();
    if (fiber && ++state.idle_yields > MAX_IDLE_YIELDS) {
        current = fiber;
        fail("spins for ever: no thread makes progress");
    }
    return fiber;
}

void fiber_main();

inline void resume(Fiber* from, Fiber* to) {
    if (!to->stack) {
        to->stack = take_stack();
        to->context.prepare(to->stack, fiber_main);
    }
    current = to;
    Context::swap(from->context, to->context);
}

inline void wait_for_others() {
    Fiber* self = current;
    Fiber* next = pick();
    if (!next) fail_stuck();
    if (next != self) resume(self, next);
}

// What a spin loop does in each turn.
inline void yield() {
    Fiber* self = current;
    state.yielded.push(self);
    Fiber* next = pick();
    if (next != self) resume(self, next);
}

// ---- collective operations --------------------------------------------------------------------

inline void release(Fiber* fiber) {
    fiber->operation = nullptr;
    if (fiber != current) state.ready.push(fiber);
}

inline bool complete(Warp* warp, int index) {
    Group group = warp->groups[index];
    if ((group.mask & warp->live) != group.arrived || !group.arrived) return false;
    warp->groups[index] = warp->groups[--warp->num_groups];
    if (group.operation->apply) group.operation->apply(warp->first, WARP, group.operation, group.arrived);
    for (int i = 0; i < WARP; i++) {
        const int lane = static_cast<int>(in_order(i, WARP));
        if (group.arrived >> lane & 1) release(warp->first + lane);
    }
    return true;
}

inline bool complete(Block* block) {
    if (!block->num_waiting || block->num_waiting != block->num_live) return false;
    const Operation* operation = block->operation;
    block->num_waiting = 0;
    block->operation = nullptr;
    if (operation->apply) operation->apply(block->fibers, state.num_threads, operation, 0);
    for (int i = 0; i < state.num_threads; i++) {
        Fiber* fiber = block->fibers + in_order(i, state.num_threads);
        if (!fiber->has_ended) release(fiber);
    }
    return true;
}

// Waits until all lanes of `mask` that have not ended are here, and takes part in the operation.
inline void warp_collective(const Operation* operation, unsigned mask, void* exchange) {
    Fiber* self = current;
    Warp* warp = self->warp;
    if (!(mask >> self->lane & 1)) fail("%s: the lane is not in its mask %08x", operation->name, mask);
    self->operation = operation;
    self->mask = mask;
    self->exchange = exchange;
    int index = 0;
    while (index < warp->num_groups && (warp->groups[index].operation != operation || warp->groups[index].mask != mask))
        index++;
    if (index == warp->num_groups) warp->groups[warp->num_groups++] = {operation, mask, 0};
    warp->groups[index].arrived |= 1u << self->lane;
    if (!complete(warp, index)) wait_for_others();
}

// Waits until all threads of the block that have not ended are here.
inline void block_collective(const Operation* operation, void* exchange) {
    Fiber* self = current;
    Block* block = self->block;
    if (block->operation && block->operation != operation)
        fail("%s while other threads wait in %s", operation->name, block->operation->name);
    self->operation = block->operation = operation;
    self->exchange = exchange;
    block->num_waiting++;
    if (!complete(block)) wait_for_others();
}

// ---- copies behind the back -------------------------------------------------------------------

inline void copy_async(void* to, const void* from) {
    Copies& copies = current->copies;
    if (copies.count == MAX_COPIES) fail("more than %d copies under way in a thread", MAX_COPIES);
    copies.items[copies.count++] = {to, from, copies.group};
}

// Those of groups before `end` are done; the others stay under way.
inline void finish_copies(int end) {
    Copies& copies = current->copies;
    int num_left = 0;
    for (int i = 0; i < copies.count; i++) {
        const Copy& copy = copies.items[i];
        if (copy.group < end)
            memcpy(copy.to, copy.from, 16);
        else
            copies.items[num_left++] = copy;
    }
    copies.count = num_left;
}

inline void wait_copies() { finish_copies(current->copies.group + 1); }
inline void end_copies() { current->copies.group++; }
inline void wait_copies_but(int num_groups) { finish_copies(current->copies.group - num_groups); }

// ---- from start to end ------------------------------------------------------------------------

inline void end_fiber(Fiber* fiber) {
    if (memcmp(fiber->stack, &STACK_CANARY, sizeof STACK_CANARY)) fail("stack overflow");
    fiber->has_ended = true;
    state.num_live--;
    fiber->block->num_live--;
    fiber->warp->live &= ~(1u << fiber->lane);
    for (int i = fiber->warp->num_groups; i-- > 0;) complete(fiber->warp, i);
    complete(fiber->block);
}

inline void fiber_main() {
    for (;;) {
        state.body(state.arguments);
        Fiber* self = current;
        end_fiber(self);
        Fiber* next = pick();
        if (!next && state.num_live) fail_stuck();
        if (next && !next->stack) {  // goes on at once on this stack
            next->stack = self->stack;
            current = next;
            continue;
        }
        free_stacks[num_free_stacks++] = self->stack;
        current = next;
        Context::swap(self->context, next ? next->context : state.host);
    }
}

inline void check_shared(const Block& block) {
    for (size_t i = state.shared_bytes; i < state.shared_bytes + SHARED_GUARD_BYTES; i++)
        if (static_cast<unsigned char>(block.shared[i]) != GUARD_PATTERN) {
            set_error("block (%u, %u, %u) wrote behind its %zu bytes of dynamic shared memory, at byte %zu",
                      block.index.x, block.index.y, block.index.z, state.shared_bytes, i);
            return;
        }
}

inline void set_block(Block& block, long long number) {
    const dim3 grid = state.grid;
    block.index = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                   static_cast<unsigned>(number / grid.x / grid.y)};
    block.num_live = state.num_threads;
    block.num_waiting = 0;
    block.operation = nullptr;
    memset(block.shared, POISON, state.shared_bytes);
    memset(block.shared + state.shared_bytes, GUARD_PATTERN, SHARED_GUARD_BYTES);
    for (int i = 0; i < state.num_threads; i++) {
        Fiber& fiber = block.fibers[i];
        fiber.stack = nullptr;
        fiber.thread = {static_cast<unsigned>(i), 0, 0};
        fiber.lane = i % WARP;
        fiber.block = &block;
        fiber.warp = block.warps + i / WARP;
        fiber.operation = nullptr;
        fiber.has_ended = false;
        fiber.copies.count = fiber.copies.group = 0;
        if (!fiber.lane) *fiber.warp = {&fiber, 0, 0, {}};
        fiber.warp->live |= 1u << fiber.lane;
    }
}

// Runs blocks [first, first + count) to their end.
inline void run_blocks(Block* blocks, long long first, int count) {
    for (int i = 0; i < count; i++) set_block(blocks[i], first + i);
    state.num_fibers = state.num_live = count * state.num_threads;
    state.num_started = 0;
    state.ready = state.yielded = {};
    state.idle_yields = 0;
    Fiber* start = pick();
    start->stack = take_stack();
    start->context.prepare(start->stack, fiber_main);
    current = start;
    Context::swap(state.host, start->context);
    current = nullptr;
    for (int i = 0; i < count && !state.error[0]; i++) check_shared(blocks[i]);
}

// Null, or what went wrong.
inline const char* launch(const char* kernel, dim3 grid, int num_threads, long long shared_bytes,
                          bool is_cooperative, bool is_backwards, void (*body)(void*), void* arguments) {
    const long long num_blocks = static_cast<long long>(grid.x) * grid.y * grid.z;
    const int num_alive = is_cooperative ? static_cast<int>(num_blocks) : 1;
    const int num_warps = (num_threads + WARP - 1) / WARP;
    const size_t stride = (shared_bytes + SHARED_GUARD_BYTES + 255) / 256 * 256;
    state = {};
    state.kernel = kernel;
    state.body = body;
    state.arguments = arguments;
    state.num_threads = num_threads;
    state.is_backwards = is_backwards;
    state.grid = grid;
    state.block = dim3(num_threads);
    state.shared_bytes = shared_bytes;
    state.fibers = static_cast<Fiber*>(calloc(static_cast<size_t>(num_alive) * num_threads, sizeof(Fiber)));
    Warp* warps = static_cast<Warp*>(calloc(static_cast<size_t>(num_alive) * num_warps, sizeof(Warp)));
    Block* blocks = static_cast<Block*>(calloc(num_alive, sizeof(Block)));
    char* shared = static_cast<char*>(aligned_alloc(256, stride * num_alive));
    for (int i = 0; i < num_alive; i++) {
        blocks[i].fibers = state.fibers + static_cast<size_t>(i) * num_threads;
        blocks[i].warps = warps + static_cast<size_t>(i) * num_warps;
        blocks[i].shared = shared + i * stride;
    }
    num_free_stacks = num_stacks;  // those of a launch that failed were not given back
    if (num_stacks) memcpy(free_stacks, all_stacks, num_stacks * sizeof(char*));
    const long long num_runs = num_blocks / num_alive;
    for (long long run = 0; run < num_runs && !state.error[0]; run++)
        run_blocks(blocks, in_order(run, num_runs) * num_alive, num_alive);
    free(shared);
    free(blocks);
    free(warps);
    free(state.fibers);
    return state.error[0] ? state.error : nullptr;
}

}  // namespace emulator
