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

static void run_thread() {
    call_of(KERNEL, given)();
    threads[threadIdx.x].is_done = true;
    swapcontext(&threads[threadIdx.x].context, &scheduler);
}

// Returns how many accesses a GPU would have refused.
extern "C" int launch(int blocks, int size, const void *const *pointers) {
    misaligned_accesses = 0;
    given = pointers;
    threads = std::vector<Thread>(size);
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
        for (Thread &thread : threads) {
            thread.is_done = false;
            thread.turns = 0;
            getcontext(&thread.context);
            thread.context.uc_stack.ss_sp = thread.stack.get();
            thread.context.uc_stack.ss_size = 1 << 17;
            makecontext(&thread.context, run_thread, 0);
        }
        for (bool is_running = true; is_running;) {
            is_running = false;
            for (threadIdx.x = 0; threadIdx.x < size; threadIdx.x++)
                if (!threads[threadIdx.x].is_done) {
                    swapcontext(&scheduler, &threads[threadIdx.x].context);
                    is_running |= !threads[threadIdx.x].is_done;
                }
        }
    }
    return misaligned_accesses;
}
