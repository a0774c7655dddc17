// The TDT search of a launch as one kernel a step (steps: tdt.cuh), for graphs and for plain launches:
//
//   begin  recurrent  while any row is active { joint  pick  if any said { lowest  layer 1 .. L } }  end
//
// Of many rows, recurrent, lowest and layer L also make what each brings to the joint; so they run in
// every turn then.
//
// tdt_begin and tdt_pick tell the host by flags in its memory, those in _loop the graph by its
// conditions. What rows are and which are active lies in device memory here.
// Grid: begin, lowest and end any; joint, recurrent and layer one block a multiprocessor; pick one
// block. 512 threads. Bound by latency: of a kernel's start, and of weights from L2.

#include "tdt_steps.cuh"

struct TdtFlags {
    int num_active, advances;  // whether there is anything for lowest and layer to do
};

__device__ __forceinline__ TdtShared shared_of(unsigned char* memory) {
    return shared_at(memory, 0, 0, SOME_ROWS + 1);
}

__device__ __forceinline__ bool advances(const TdtProgress& progress) {
    return progress.counts->num_said > 0 || are_many(progress);
}

__device__ __forceinline__ void tell(const TdtProgress& progress, TdtFlags* flags) {
    if (threadIdx.x == 0) *flags = {progress.counts->num_active, advances(progress)};
}

__device__ __forceinline__ void begin(const Tdt& tdt, int* progress_memory, unsigned char* memory) {
    begin_states(tdt);
    const TdtShared shared = shared_of(memory);
    if (blockIdx.x == 0) begin_rows(tdt, shared, progress_at(progress_memory, tdt.max_rows));
}

extern "C" __global__ void __launch_bounds__(512, 1) tdt_begin(
    float* values, int* marks, float* cells, float4* columns, unsigned long long* keys,
    const TdtRequest* request, int* progress, int max_rows, TdtFlags* flags
) {
    DYNAMIC_SHARED(unsigned char, memory);
    Tdt tdt = {};
    tdt.values = values, tdt.marks = marks, tdt.cells = cells, tdt.columns = columns;
    tdt.keys = keys, tdt.request = request, tdt.max_rows = max_rows;
    begin(tdt, progress, memory);
    if (blockIdx.x == 0) tell(progress_at(progress, max_rows), flags);
}

extern "C" __global__ void __launch_bounds__(512, 1) tdt_begin_loop(
    float* values, int* marks, float* cells, float4* columns, unsigned long long* keys,
    const TdtRequest* request, int* progress, int max_rows, cudaGraphConditionalHandle loop
) {
    DYNAMIC_SHARED(unsigned char, memory);
    Tdt tdt = {};
    tdt.values = values, tdt.marks = marks, tdt.cells = cells, tdt.columns = columns;
    tdt.keys = keys, tdt.request = request, tdt.max_rows = max_rows;
    begin(tdt, progress, memory);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        set_condition(loop, progress_at(progress, max_rows).counts->num_active > 0);
}

extern "C" __global__ void __launch_bounds__(512, 1) tdt_recurrent(
    const T* tiles, const float* bias, float* values, float* gates, float4* columns,
    const TdtRequest* request, int* progress, int max_rows
) {
    DYNAMIC_SHARED(unsigned char, memory);
    Tdt tdt = {};
    tdt.tiles = tiles, tdt.bias = bias, tdt.values = values, tdt.gates = gates;
    tdt.columns = columns, tdt.request = request, tdt.max_rows = max_rows;
    const TdtProgress rows = progress_at(progress, max_rows);
    if (are_many(rows)) join_rows(tdt, rows);
    for (int step = 1; step <= NUM_LAYERS; step++)
        layer_step(tdt, shared_of(memory), rows, step, true, false);
}

extern "C" __global__ void __launch_bounds__(512, 1) tdt_joint(
    const T* tiles, const float* bias, float* values, float4* columns, unsigned long long* keys,
    float* duration_logits, float* logits, float2* sums, const TdtRequest* request, int* progress,
    int max_rows
) {
    DYNAMIC_SHARED(unsigned char, memory);
    Tdt tdt = {};
    tdt.tiles = tiles, tdt.bias = bias, tdt.values = values, tdt.keys = keys;
    tdt.duration_logits = duration_logits, tdt.logits = logits, tdt.sums = sums;
    tdt.columns = columns, tdt.request = request, tdt.max_rows = max_rows;
    joint(tdt, shared_of(memory), progress_at(progress, max_rows));
}

extern "C" __global__ void __launch_bounds__(512, 1) tdt_pick(
    const int* durations, unsigned long long* keys, float* duration_logits, float* logits,
    const int* tries, int4* tokens, const TdtRequest* request, int* progress, int max_symbols,
    int max_rows, TdtFlags* flags
) {
    DYNAMIC_SHARED(unsigned char, memory);
    Tdt tdt = {};
    tdt.durations = durations, tdt.keys = keys, tdt.duration_logits = duration_logits;
    tdt.logits = logits, tdt.tries = tries, tdt.tokens = tokens, tdt.request = request;
    tdt.max_symbols = max_symbols, tdt.max_rows = max_rows;
    pick(tdt, shared_of(memory), progress_at(progress, max_rows));
    tell(progress_at(progress, max_rows), flags);
}

extern "C" __global__ void __launch_bounds__(512, 1) tdt_pick_loop(
    const int* durations, unsigned long long* keys, float* duration_logits, float* logits,
    const int* tries, int4* tokens, const TdtRequest* request, int* progress, int max_symbols,
    int max_rows, cudaGraphConditionalHandle loop, cudaGraphConditionalHandle said
) {
    DYNAMIC_SHARED(unsigned char, memory);
    Tdt tdt = {};
    tdt.durations = durations, tdt.keys = keys, tdt.duration_logits = duration_logits;
    tdt.logits = logits, tdt.tries = tries, tdt.tokens = tokens, tdt.request = request;
    tdt.max_symbols = max_symbols, tdt.max_rows = max_rows;
    const TdtProgress rows = progress_at(progress, max_rows);
    pick(tdt, shared_of(memory), rows);
    if (threadIdx.x == 0) {
        set_condition(loop, rows.counts->num_active > 0);
        set_condition(said, advances(rows));
    }
}

// Also the confidences of the turn's tokens, and what many rows bring to the joint that said nothing.
extern "C" __global__ void __launch_bounds__(512, 1) tdt_lowest(
    const float* table, float* values, float* gates, float* cells, float4* columns,
    unsigned long long* keys, float* logits, float2* sums, int4* tokens, const TdtRequest* request,
    int* progress, int max_rows
) {
    Tdt tdt = {};
    tdt.table = table, tdt.values = values, tdt.gates = gates, tdt.cells = cells, tdt.keys = keys;
    tdt.logits = logits, tdt.sums = sums, tdt.tokens = tokens, tdt.request = request;
    tdt.columns = columns, tdt.max_rows = max_rows;
    const TdtProgress rows = progress_at(progress, max_rows);
    if (are_many(rows)) join_rows(tdt, rows);
    lowest(tdt, rows);
    finish_tokens(tdt, rows);
}

extern "C" __global__ void __launch_bounds__(512, 1) tdt_layer(
    const T* tiles, const float* bias, float* values, float* gates, float4* columns,
    const TdtRequest* request, int* progress, int max_rows, int step
) {
    DYNAMIC_SHARED(unsigned char, memory);
    Tdt tdt = {};
    tdt.tiles = tiles, tdt.bias = bias, tdt.values = values, tdt.gates = gates;
    tdt.columns = columns, tdt.request = request, tdt.max_rows = max_rows;
    layer_step(tdt, shared_of(memory), progress_at(progress, max_rows), step, false, false);
}

extern "C" __global__ void __launch_bounds__(512, 1) tdt_end(
    float* values, int* marks, float* cells, int4* tokens, const TdtRequest* request, int* progress,
    int max_rows
) {
    Tdt tdt = {};
    tdt.values = values, tdt.marks = marks, tdt.cells = cells, tdt.tokens = tokens;
    tdt.request = request, tdt.max_rows = max_rows;
    end_rows(tdt, progress_at(progress, max_rows));
}
