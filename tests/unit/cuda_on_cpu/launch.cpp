// What launches the kernel that stands above it.

struct Arguments {
    const Strip *strips;
    const Part *parts;
    const float *coefficients, *in_force;
    const int *first_escapes;
    const Piece *pieces;
};
static Arguments arguments;

static void run_thread() {
    update(arguments.strips, arguments.parts, arguments.coefficients, arguments.in_force, arguments.first_escapes,
           arguments.pieces);
    threads[threadIdx.x].is_done = true;
    swapcontext(&threads[threadIdx.x].context, &scheduler);
}

// Returns how many accesses a GPU would have refused.
extern "C" int launch(int blocks, int size, const void *const *pointers) {
    misaligned_accesses = 0;
    arguments = {static_cast<const Strip *>(pointers[0]), static_cast<const Part *>(pointers[1]),
                 static_cast<const float *>(pointers[2]), static_cast<const float *>(pointers[3]),
                 static_cast<const int *>(pointers[4]), static_cast<const Piece *>(pointers[5])};
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
