// What launches the kernel that stands above it, whatever its arguments are: all of them are pointers.

#include <tuple>
#include <utility>

template <typename... Types>
struct Call {
    std::tuple<Types...> arguments;
    void (*kernel)(Types...);

    Call(void (*kernel)(Types...), const void *const *pointers) : kernel(kernel) {
        set(pointers, std::index_sequence_for<Types...>());
    }

    template <size_t... Numbers>
    void set(const void *const *pointers, std::index_sequence<Numbers...>) {
        arguments = std::make_tuple((Types) const_cast<void *>(pointers[Numbers])...);
    }

    void operator()() { std::apply(kernel, arguments); }
};

template <typename... Types>
Call<Types...> call_of(void (*kernel)(Types...), const void *const *pointers) {
    return Call<Types...>(kernel, pointers);
}

static const void *const *given;

// A thread of each block in turn, and of each launch.
static void run_thread() {
    for (;;) {
        take_a_rest();
        call_of(KERNEL, given)();
        threads[threadIdx.x].is_done = true;
    }
}

static void start_thread() {
    threads.emplace_back();
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = threads.back().stack.get();
    context.uc_stack.ss_size = STACK;
    makecontext(&context, run_thread, 0);
    if (!_setjmp(scheduler)) setcontext(&context);
}

__attribute__((noinline)) static void resume_thread() {
    if (!_setjmp(scheduler)) _longjmp(threads[threadIdx.x].here, 1);
}

// Returns how many accesses a GPU would have refused.
extern "C" int launch(int blocks, int size, const void *const *pointers) {
    misaligned_accesses = 0;
    given = pointers;
    while (threads.size() < static_cast<size_t>(size)) {
        threadIdx.x = threads.size();
        start_thread();
    }
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
        for (int i = 0; i < size; i++) {
            threads[i].is_done = false;
            threads[i].turns = 0;
        }
        for (bool is_running = true; is_running;) {
            is_running = false;
            for (threadIdx.x = 0; threadIdx.x < size; threadIdx.x++)
                if (!threads[threadIdx.x].is_done) {
                    resume_thread();
                    is_running |= !threads[threadIdx.x].is_done;
                }
        }
    }
    return misaligned_accesses;
}
