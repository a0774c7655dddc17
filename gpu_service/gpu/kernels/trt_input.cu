// What a TensorRT encoder takes in (gpu_service/gpu/trt_inputs.py), from the feature store's rows.
// Everything is float: the network casts, and these are a thousandth of its traffic.

constexpr int NUM_MELS = 128;
constexpr int FACTOR = 8;  // mel rows to one encoder frame
constexpr float MASKED = -1e4f;

// Normalised rows of B utterances, zero behind their ends, and the masks of the subsampling.
//   mel (S, R, 128), mean, scale (S, 128)
//   descriptors (B, 4): slot, first row, unused, end row; no utterance: zeros
//   features (B, 8N, 128), half_mask (B, 4N), quarter_mask (B, 2N), frame_mask (B, N): 1 real, 0 not
//   key_mask (B, N): 0 real, MASKED not
// A row of a mask is real where the first mel row that it is centred on is. Grid (N, B): a block
// for an encoder frame, a thread for a band. Bound by memory: 8 bytes a value, all coalesced.
extern "C" __global__ void gather_features(
    const float* mel, const float* mean, const float* scale, const int* descriptors, float* features,
    float* half_mask, float* quarter_mask, float* frame_mask, float* key_mask, int max_rows
) {
    const int num_frames = gridDim.x, frame = blockIdx.x, utterance = blockIdx.y;
    const int band = threadIdx.x;
    const int slot = descriptors[4 * utterance];
    const int first_row = descriptors[4 * utterance + 1];
    const int num_rows = descriptors[4 * utterance + 3] - first_row;
    const float centre = mean[slot * NUM_MELS + band], spread = scale[slot * NUM_MELS + band];
    const float* from =
        mel + (static_cast<long long>(slot) * max_rows + first_row) * NUM_MELS + band;
    const long long at = static_cast<long long>(utterance) * num_frames + frame;
    for (int i = 0; i < FACTOR; i++) {
        const int row = FACTOR * frame + i;
        const bool is_real = row < num_rows;
        // A division, as the CPU engine normalises: times the reciprocal differs in the last bit.
        const float value =
            is_real ? (from[static_cast<long long>(row) * NUM_MELS] - centre) / spread : 0.0f;
        features[(at * FACTOR + i) * NUM_MELS + band] = value;
    }
    const int first = FACTOR * frame;
    if (band < 4) half_mask[at * 4 + band] = first + 2 * band < num_rows ? 1.0f : 0.0f;
    if (band < 2) quarter_mask[at * 2 + band] = first + 4 * band < num_rows ? 1.0f : 0.0f;
    if (band == 0) {
        frame_mask[at] = first < num_rows ? 1.0f : 0.0f;
        key_mask[at] = first < num_rows ? 0.0f : MASKED;
    }
}
