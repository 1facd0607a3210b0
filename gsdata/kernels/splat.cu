// Gaussians to images and back, on a GPU. One file without includes: NVRTC compiles it on the user's machine, g++ compiles
// the same text for the tests (tests/kernels/shim). CHANNELS (1 to 4) is a macro; `Task` is `cuda_launch.TASK`.
//
// A sum has no order and an image's Gaussians are few, so there is no sort, no scan over tiles, no atomic and no host sync:
//   splat_forward     a block per output image and region of 32 x 32 pixels. Its threads read the image's Gaussians and keep
//                     those whose box meets the region, prepared, in shared memory (in as many rounds as it takes: there is
//                     no limit on their number). Each warp owns 16 x 8 pixels, as two tiles of 16 x 4: its 32 lanes test
//                     32 Gaussians against both tiles at once, exactly, then all lanes add those that touch.
//   splat_backward_*  a block per image and 32 of its Gaussians. A warp owns a Gaussian, walks the pixels that it covers
//                     and sums in registers; then a thread per Gaussian turns the sums into gradients. A Gaussian's sums
//                     are added in one order, always the same: gradients have the same bits every time.
//
// How a pixel is computed (as splat.py does). Sigma' is factored with y first, q = dy^2 / Syy + k (dx - m dy)^2 with
// m = Sxy / Syy and k = Syy / det, and t = -q/2 log2(e), so that w > 0 means t > -10. What a Gaussian needs once is
// float64, what a pixel needs is float32. Coordinates of a thin Gaussian would lose too much in float32, so positions are
// kept as a whole number (exact) and a fraction, and the slope m as a sum of two floats; one fma then gives
// (x - whole) - m (y - whole) rounded once, which is small wherever the weight is not.
// The test of a tile is the pixels' own arithmetic at the nearest point of each of its rows, and float32 operations are
// monotone: what it drops is exactly zero, so no bit of an image depends on how the work was divided.

#ifndef CHANNELS
#define CHANNELS 3
#endif

typedef long long Index;

enum Format { FLOAT32, FLOAT16, BFLOAT16, UINT8 };

struct Task {
    // Values (G, .) as float32, or as codes of one or two bytes when there are tables.
    const void *means, *cholesky, *colors;
    const float *opacities;                // (G, 1) or null
    const float *tables;                   // every quantiser's table, one after the other; null: values are float32
    const Index *table_starts;             // (sets, 4): where the tables of means, scales, shear and colors begin
    const int *sets;                       // (images,): each image's quantiser set
    const Index *offsets;                  // (images + 1,): image b owns rows offsets[b] to offsets[b + 1]
    const Index *indices;                  // forward: (outputs,); backward: distinct images; null: 0, 1, 2, ...
    const Index *starts, *order;           // backward, null without repeats: image i was output order[starts[i]], ...
    void *out;                             // forward: the images; backward: the gradient with respect to them
    float *grad_means, *grad_cholesky, *grad_colors, *grad_opacities;  // each may be null
    Index out_strides[4];                  // image, channel, row, column; in elements
    double scale_x, scale_y, variance;     // W / W0, H / H0, what the antialias mode adds to Sigma's diagonal
    int height, width, images, parts;      // parts: blocks per output image
    int columns, capacity;                 // forward: regions in a row of regions; Gaussians that shared memory holds
    int format, normalized;                // Format of out; whether the amplitude keeps a Gaussian's integral
    int means_bytes, cholesky_bytes, colors_bytes, unused;
    float background[4], gain[4], shift[4];  // out = (background + sum) * gain + shift
};

#ifdef TASK_BYTES
static_assert(sizeof(Task) == TASK_BYTES, "struct Task and cuda_launch.TASK differ");
#endif

#define EACH_CHANNEL _Pragma("unroll") for (int c = 0; c < CHANNELS; ++c)

constexpr int REGION = 32, TILE_WIDTH = 16, TILE_HEIGHT = 4;
constexpr int FORWARD_THREADS = 256, FORWARD_WARPS = 8;
constexpr int BACKWARD_THREADS = 128, BACKWARD_WARPS = 4, BATCH = 32;
constexpr int SUMS = CHANNELS < 4 ? 8 : 16;  // 5 + CHANNELS, as a power of two
constexpr unsigned ALL = 0xffffffffu;
constexpr float EPSILON = 1.0f / 1024, LOWEST = -10.0f;  // log2 of epsilon
constexpr double HALF_LOG2E = 0.72134752044448170368, Q_MAX = 13.862943611198906;  // 20 ln 2

struct Values {  // a Gaussian as it was given, the opacity apart
    float x, y, l11, l21, l22, opacity, color[CHANNELS];
};

struct Shape {  // what the gradients need again, in output pixels
    double mx, my, a, b, c, syy, slope, by_syy, by_det;  // by_: the reciprocals of Syy and of the determinant
    bool finite;
};

struct __align__(16) Gaussian {  // what pixels need
    float row, column;            // whole pixels: the mean's row, and where the axis dx = m dy crosses that row
    float slope, slope_low;       // m = slope + slope_low
    float row_rest, column_rest;  // dy = y - row + row_rest; the axis crosses at column + column_rest
    float k, inverse;             // t = inverse dy^2 + k e^2, both negative
    float color[4];
};

struct Row {  // what the pixels of a row share
    float y, dy, rest, t;
};

extern __shared__ float4 shared_memory[];

// ---- Arithmetic without the slow paths of the standard functions: arguments are normal numbers here ----

#ifdef __CUDA_ARCH__
__device__ inline float exp2_of(float t) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(t));
    return t;
}
__device__ inline float root(float x) {
    asm("sqrt.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}
__device__ inline double reciprocal(double x) {
    double r;
    asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(r) : "d"(x));  // 20 bits; each Newton step doubles them
    r = fma(r, fma(-x, r, 1.0), r);
    return fma(r, fma(-x, r, 1.0), r);
}
#else
inline float exp2_of(float t) { return exp2f(t); }
inline float root(float x) { return sqrtf(x); }
inline double reciprocal(double x) { return 1.0 / x; }
#endif

// ---- Values: floats, or codes looked up in their quantiser's table ----

__device__ inline float decoded(const void *codes, int bytes, Index at, const float *table) {
    return table[bytes == 1 ? ((const unsigned char *)codes)[at] : ((const unsigned short *)codes)[at]];
}

__device__ inline Values load(const Task &task, Index row, Index image) {
    Values v;
    if (task.tables) {
        const Index *starts = task.table_starts + 4 * task.sets[image];
        const float *means = task.tables + starts[0], *scales = task.tables + starts[1];
        v.x = decoded(task.means, task.means_bytes, 2 * row, means);
        v.y = decoded(task.means, task.means_bytes, 2 * row + 1, means);
        v.l11 = decoded(task.cholesky, task.cholesky_bytes, 3 * row, scales);
        v.l21 = decoded(task.cholesky, task.cholesky_bytes, 3 * row + 1, task.tables + starts[2]);
        v.l22 = decoded(task.cholesky, task.cholesky_bytes, 3 * row + 2, scales);
        const float *colors = task.tables + starts[3];
        EACH_CHANNEL v.color[c] = decoded(task.colors, task.colors_bytes, CHANNELS * row + c, colors);
    } else {
        const float2 mean = ((const float2 *)task.means)[row];
        const float *cholesky = ((const float *)task.cholesky) + 3 * row;
        const float *color = ((const float *)task.colors) + CHANNELS * row;
        v.x = mean.x, v.y = mean.y;
        v.l11 = cholesky[0], v.l21 = cholesky[1], v.l22 = cholesky[2];
        EACH_CHANNEL v.color[c] = color[c];
    }
    v.opacity = task.opacities ? task.opacities[row] : 1.0f;
    return v;
}

// ---- A Gaussian at one output size ----

__device__ inline Shape shape_of(const Task &task, const Values &v) {
    Shape s;
    s.mx = (v.x + 1.0) * 0.5 * task.width, s.my = (v.y + 1.0) * 0.5 * task.height;
    s.a = task.scale_x * v.l11, s.b = task.scale_y * v.l21, s.c = task.scale_y * v.l22;
    // A sum of squares: no cancellation, however thin the Gaussian.
    const double squares = s.a * s.a + s.b * s.b + s.c * s.c, ac = s.a * s.c;
    const double det = ac * ac + task.variance * squares + task.variance * task.variance;
    s.by_det = reciprocal(det);
    s.syy = s.b * s.b + s.c * s.c + task.variance;
    s.by_syy = reciprocal(s.syy);
    s.slope = s.a * s.b * s.by_syy;
    s.finite = fabs(s.mx + s.my + det) < 1e300;
    return s;
}

__device__ inline float amplitude_of(const Task &task, const Shape &s) {
    const float kept = task.normalized ? root(float(s.a * s.c * s.by_det * (s.a * s.c))) : 1.0f;
    return kept / (1.0f - EPSILON);
}

// Everything but the colours. A Gaussian that is not finite covers every pixel; its colours then make them NaN.
__device__ inline Gaussian prepared(const Shape &s) {
    Gaussian g = {};
    if (!s.finite) return g;
    const double row = floor(s.my), axis = s.mx + s.slope * (row + 0.5 - s.my) - 0.5;
    g.row = float(row);
    g.column = float(floor(axis));
    g.row_rest = float(g.row + 0.5 - s.my);
    g.column_rest = float(axis - g.column);
    g.slope = float(s.slope);
    g.slope_low = float(s.slope - g.slope);
    g.k = float(-HALF_LOG2E * s.syy * s.by_det);
    g.inverse = float(-HALF_LOG2E * s.by_syy);
    return g;
}

// Whether the Gaussian's box meets the region at (left, top); generous by a pixel, for float32.
__device__ inline bool meets(const Task &task, const Values &v, int left, int top) {
    const float scale_x = float(task.scale_x), scale_y = float(task.scale_y);
    const float q_max = float(Q_MAX), variance = float(task.variance);
    const float a = scale_x * v.l11, b = scale_y * v.l21, c = scale_y * v.l22;
    const float mx = (v.x + 1.0f) * 0.5f * task.width, my = (v.y + 1.0f) * 0.5f * task.height;
    const float half_x = root(q_max * (a * a + variance)), half_y = root(q_max * (b * b + c * c + variance));
    const float slack_x = 1.0f + 1e-6f * (fabsf(mx) + half_x), slack_y = 1.0f + 1e-6f * (fabsf(my) + half_y);
    const bool apart = mx + half_x + slack_x < left || mx - half_x - slack_x > left + REGION ||
                       my + half_y + slack_y < top || my - half_y - slack_y > top + REGION;
    return !apart || !(fabsf(mx) + fabsf(my) + half_x + half_y < 3e38f);  // what is not finite meets every region
}

// ---- A Gaussian at a pixel ----

// Arguments are whole pixels from (g.column, g.row); they stay exact when whole numbers are added to them.
__device__ inline Row row_of(const Gaussian &g, float y) {
    Row r;
    r.y = y;
    r.dy = y + g.row_rest;
    r.rest = -fmaf(g.slope_low, y, g.column_rest);
    r.t = g.inverse * r.dy * r.dy;
    return r;
}

// e = dx - m dy
__device__ inline float across(const Gaussian &g, const Row &r, float x) { return fmaf(-g.slope, r.y, x) + r.rest; }

__device__ inline float exponent(const Gaussian &g, const Row &r, float e) { return fmaf(g.k * e, e, r.t); }

// Whether any pixel of the tile at (left, top) may have a weight.
__device__ inline bool touches(const Gaussian &g, float left, float top) {
    bool any = false;
#pragma unroll
    for (int i = 0; i < TILE_HEIGHT; ++i) {
        const Row r = row_of(g, top - g.row + i);
        const float x = left - g.column, e = fmaxf(across(g, r, x), -across(g, r, x + (TILE_WIDTH - 1)));
        any |= exponent(g, r, fmaxf(e, 0.0f)) > LOWEST;
    }
    return any;
}

// Add a Gaussian to the pixels (x, y) and (x + 8, y).
__device__ inline void add(const Gaussian &g, float x, float y, float (&sum)[2][CHANNELS]) {
    const Row r = row_of(g, y - g.row);
    const float whole = x - g.column;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float e = across(g, r, i ? whole + 8.0f : whole), w = fmaxf(exp2_of(exponent(g, r, e)) - EPSILON, 0.0f);
        EACH_CHANNEL sum[i][c] = fmaf(w, g.color[c], sum[i][c]);
    }
}

// ---- 16-bit floats as bit patterns, because their types would need an include ----

__device__ inline unsigned short bfloat16_bits(float value) {
    const unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;  // NaN, which rounding could turn into infinity
    return (unsigned short)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

__device__ inline unsigned short float16_bits(float value) {
    const unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    // Rounded by hand; a subnormal is rounded to 2^-24 by the sum; 65,520 and more is infinity.
    const unsigned half = size > 0x7f800000u    ? 0x7e00u  // NaN
                          : size >= 0x477ff000u ? 0x7c00u
                          : size < 0x38800000u  ? __float_as_uint(fabsf(value) + 0.5f) - 0x3f000000u
                                                : (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13;
    return (unsigned short)(sign | half);
}

template <int FORMAT>
__device__ inline float read(const void *from, Index at) {
    if (FORMAT == FLOAT32) return ((const float *)from)[at];
    const unsigned bits = ((const unsigned short *)from)[at];
    if (FORMAT == BFLOAT16) return __uint_as_float(bits << 16);
    const unsigned special = (bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u, sign = (bits & 0x8000u) << 16;
    const float size = __uint_as_float((bits & 0x7fffu) << 13) * 5.192296858534828e33f;  // 2^112
    return __uint_as_float(__float_as_uint(size) | special | sign);
}

__device__ inline void store(const Task &task, Index output, int x, int y, const float *sum) {
    if (x >= task.width || y >= task.height) return;
    Index at = output * task.out_strides[0] + y * task.out_strides[2] + x * task.out_strides[3];
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c, at += task.out_strides[1]) {
        const float value = fmaf(sum[c] + task.background[c], task.gain[c], task.shift[c]);
        switch (task.format) {
            case FLOAT32: ((float *)task.out)[at] = value; break;
            case FLOAT16: ((unsigned short *)task.out)[at] = float16_bits(value); break;
            case BFLOAT16: ((unsigned short *)task.out)[at] = bfloat16_bits(value); break;
            default:
                ((unsigned char *)task.out)[at] =
                    (unsigned char)(rintf(fminf(fmaxf(value, 0.0f), 1.0f) * 255.0f));
        }
    }
}

// ---- Forward ----

extern "C" __global__ void __launch_bounds__(FORWARD_THREADS, 3) splat_forward(const Task task) {
    Gaussian *const kept = (Gaussian *)shared_memory;
    int *const votes_of_warps = (int *)(kept + task.capacity);  // two sets, used in turn
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int output = blockIdx.x / task.parts, region = blockIdx.x % task.parts;
    const int left = region % task.columns * REGION, top = region / task.columns * REGION;
    const int tile_x = left + warp % 2 * TILE_WIDTH, tile_y = top + warp / 2 * 2 * TILE_HEIGHT;
    const int x = tile_x + lane % 8, y = tile_y + lane / 8;
    const bool inside = tile_x < task.width && tile_y < task.height;

    const Index wanted = task.indices ? task.indices[output] : output;
    const bool known = 0 <= wanted && wanted < task.images;
    const int image = known ? int(wanted) : 0;
    const Index first = known ? task.offsets[image] : 0;
    const int count = known ? int(task.offsets[image + 1] - first) : 0;
    const float start = known ? 0.0f : __uint_as_float(0x7fc00000u);  // an index out of range makes its image NaN
    float sum[2][2][CHANNELS];
#pragma unroll
    for (int i = 0; i < 4 * CHANNELS; ++i) (&sum[0][0][0])[i] = start;

    int next = 0;
    for (int turn = 0; next < count;) {
        int held = 0;
        do {
            const Index row = first + next + thread;
            const bool hit = next + thread < count && meets(task, load(task, row, image), left, top);
            const unsigned votes = __ballot_sync(ALL, hit);
            if (lane == 0) votes_of_warps[turn + warp] = __popc(votes);
            __syncthreads();
            int slot = held + __popc(votes & ((1u << lane) - 1u));
#pragma unroll 1
            for (int i = 0; i < FORWARD_WARPS; ++i) {
                if (i < warp) slot += votes_of_warps[turn + i];
                held += votes_of_warps[turn + i];
            }
            if (hit) {
                const Values v = load(task, row, image);
                const Shape s = shape_of(task, v);
                Gaussian g = prepared(s);
                const float amplitude = s.finite ? amplitude_of(task, s) : __uint_as_float(0x7fc00000u);
                EACH_CHANNEL g.color[c] = v.color[c] * v.opacity * amplitude;
                kept[slot] = g;
            }
            next += FORWARD_THREADS;
            turn = FORWARD_WARPS - turn;
        } while (next < count && held + min(FORWARD_THREADS, count - next) <= task.capacity);
        __syncthreads();
        for (int base = 0; inside && base < held; base += 32) {
            bool upper = false, lower = false;
            if (base + lane < held) {
                const Gaussian g = kept[base + lane];
                upper = touches(g, tile_x, tile_y), lower = touches(g, tile_x, tile_y + TILE_HEIGHT);
            }
            const unsigned uppers = __ballot_sync(ALL, upper), lowers = __ballot_sync(ALL, lower);
            for (unsigned rest = uppers | lowers; rest; rest &= rest - 1) {
                const int bit = __ffs(rest) - 1;
                const Gaussian g = kept[base + bit];
                if (uppers >> bit & 1u) add(g, x, y, sum[0]);
                if (lowers >> bit & 1u) add(g, x, y + TILE_HEIGHT, sum[1]);
            }
        }
        // The next round writes what this one reads only after a barrier of its own.
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) store(task, output, x + i % 2 * 8, y + i / 2 * TILE_HEIGHT, sum[i / 2][i % 2]);
}

// ---- Backward ----

// A float within 0 to limit - 1, as an integer; NaN gives the bound.
__device__ inline int clamped(float value, int limit) {
    return int(fminf(fmaxf(value, 0.0f), float(limit - 1)));
}

// Add up over the pixels of one output, with h = exp(-q/2) grad.color and e = dx - m dy:
// h dy, h dy^2, h e, h e dy, h e^2, and w grad of each channel.
template <int FORMAT>
__device__ inline void sum_pixels(const Task &task, const Gaussian &g, Index output, int lane, float (&sum)[SUMS]) {
    const float half_y = root(__fdividef(LOWEST, g.inverse));
    const int last_y = clamped(g.row - g.row_rest + half_y + 1.0f, task.height);
    for (int top = clamped(g.row - g.row_rest - half_y - 1.0f, task.height); top <= last_y; top += 4) {
        const int y = top + lane / 8;
        const Row r = row_of(g, y - g.row);
        // The columns that these four rows cover, a pixel more at both ends.
        const float axis = fmaf(g.slope, r.y, g.column) - r.rest, half_x = root(__fdividef(LOWEST - r.t, g.k)) + 1.0f;
        const bool covered = y <= last_y && !(r.t < LOWEST) && !(axis + half_x < 0.0f) && !(axis - half_x > task.width - 1);
        int from = covered ? clamped(axis - half_x, task.width) : task.width;
        int to = covered ? clamped(axis + half_x, task.width) : -1;
#pragma unroll
        for (int step = 8; step < 32; step *= 2) {
            from = min(from, __shfl_xor_sync(ALL, from, step));
            to = max(to, __shfl_xor_sync(ALL, to, step));
        }
        const Index line = output * task.out_strides[0] + y * task.out_strides[2];
#pragma unroll 1
        for (int x = from + lane % 8; x <= to; x += 8) {
            const float e = across(g, r, x - g.column), t = exponent(g, r, e);
            if (!covered || !(t > LOWEST)) continue;  // beyond the cut-off the weight is constant
            const float exp = exp2_of(t);
            Index at = line + x * task.out_strides[3];
            float by_w = 0.0f;
#pragma unroll
            for (int c = 0; c < CHANNELS; ++c, at += task.out_strides[1]) {
                const float grad = read<FORMAT>(task.out, at);
                by_w = fmaf(grad, g.color[c], by_w);
                sum[5 + c] = fmaf(grad, exp - EPSILON, sum[5 + c]);
            }
            const float h = exp * by_w, h_dy = h * r.dy, h_e = h * e;
            sum[0] += h_dy;
            sum[1] = fmaf(h_dy, r.dy, sum[1]);
            sum[2] += h_e;
            sum[3] = fmaf(h_e, r.dy, sum[3]);
            sum[4] = fmaf(h_e, e, sum[4]);
        }
    }
}

// The warp's totals of every sum: lane l returns number l / (32 / SUMS). Each step halves what a lane still holds.
template <int HALF, int STEP>
__device__ inline float totals(float (&sum)[SUMS], int lane) {
    if constexpr (HALF > 0) {
#pragma unroll
        for (int i = 0; i < HALF; ++i) {
            const float given = lane & STEP ? sum[i] : sum[i + HALF], own = lane & STEP ? sum[i + HALF] : sum[i];
            sum[i] = own + __shfl_xor_sync(ALL, given, STEP);
        }
        return totals<HALF / 2, STEP / 2>(sum, lane);
    } else if constexpr (STEP > 0) {
        sum[0] += __shfl_xor_sync(ALL, sum[0], STEP);
        return totals<0, STEP / 2>(sum, lane);
    } else {
        return sum[0];
    }
}

// The chain rule from the sums over pixels to the parameters, float64; as splat.py's.
__device__ inline void finish(const Task &task, Index row, const Values &v, const float *sum) {
    const Shape s = shape_of(task, v);
    const double amplitude = s.finite ? amplitude_of(task, s) : __uint_as_float(0x7fc00000u), k = s.syy * s.by_det;
    double by_opacity = 0.0;
    EACH_CHANNEL {
        const double by_color = amplitude * sum[5 + c] * task.gain[c];
        by_opacity += by_color * v.color[c];
        if (task.grad_colors) task.grad_colors[CHANNELS * row + c] = float(by_color * v.opacity);
    }
    if (task.grad_opacities) task.grad_opacities[row] = float(by_opacity);
    const double factor = -0.5 * amplitude;  // dF/dq of a pixel is factor * h
    const double by_mx = -2.0 * factor * k * sum[2];
    const double by_my = factor * (2.0 * k * s.slope * sum[2] - 2.0 * sum[0] * s.by_syy);
    const double by_slope = -2.0 * factor * k * sum[3], by_k = factor * sum[4];
    const double by_syy = by_k * s.by_det - (factor * sum[1] * s.by_syy + by_slope * s.slope) * s.by_syy;
    const double by_sxy = by_slope * s.by_syy;
    double by_det = -by_k * k * s.by_det, by_a = 0.0, by_c = 0.0;
    if (task.normalized) {
        const double by_log_amplitude = by_opacity * v.opacity;
        by_det -= 0.5 * by_log_amplitude * s.by_det;
        by_a = s.a != 0.0 ? by_log_amplitude * reciprocal(s.a) : 0.0;
        by_c = s.c != 0.0 ? by_log_amplitude * reciprocal(s.c) : 0.0;
    }
    by_a += by_sxy * s.b + by_det * 2.0 * s.a * (s.c * s.c + task.variance);
    const double by_b = by_syy * 2.0 * s.b + by_sxy * s.a + by_det * 2.0 * s.b * task.variance;
    by_c += by_syy * 2.0 * s.c + by_det * 2.0 * s.c * (s.a * s.a + task.variance);
    if (task.grad_means) {
        task.grad_means[2 * row] = float(by_mx * 0.5 * task.width);
        task.grad_means[2 * row + 1] = float(by_my * 0.5 * task.height);
    }
    if (task.grad_cholesky) {
        task.grad_cholesky[3 * row] = float(by_a * task.scale_x);
        task.grad_cholesky[3 * row + 1] = float(by_b * task.scale_y);
        task.grad_cholesky[3 * row + 2] = float(by_c * task.scale_y);
    }
}

template <int FORMAT>
__device__ inline void backward(const Task &task) {
    Gaussian *const batch = (Gaussian *)shared_memory;
    float *const sums = (float *)(batch + BATCH);
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const Index slot = blockIdx.x / task.parts, begin = Index(blockIdx.x % task.parts) * BATCH;
    const Index image = task.indices ? task.indices[slot] : slot;
    if (image < 0 || image >= task.images) return;
    const Index first = task.offsets[image] + begin, left = task.offsets[image + 1] - first;
    const int count = int(min(left, Index(BATCH)));
    if (count <= 0) return;

    if (thread < count) {
        const Values v = load(task, first + thread, image);
        Gaussian g = prepared(shape_of(task, v));
        EACH_CHANNEL g.color[c] = v.color[c] * v.opacity * task.gain[c];
        batch[thread] = g;
    }
    __syncthreads();
    for (int i = warp; i < count; i += BACKWARD_WARPS) {
        const Gaussian g = batch[i];
        float sum[SUMS] = {};
        const Index from = task.starts ? task.starts[slot] : slot, to = task.starts ? task.starts[slot + 1] : slot + 1;
        for (Index output = from; output < to; ++output)
            sum_pixels<FORMAT>(task, g, task.order ? task.order[output] : output, lane, sum);
        const float total = totals<SUMS / 2, 16>(sum, lane);
        if (lane % (32 / SUMS) == 0) sums[i * SUMS + lane / (32 / SUMS)] = total;
    }
    __syncthreads();
    // Loaded again: kept until here, they would cost registers in the loop over pixels.
    if (thread < count) finish(task, first + thread, load(task, first + thread, image), sums + thread * SUMS);
}

#define BACKWARD(name, format)                                                                     \
    extern "C" __global__ void __launch_bounds__(BACKWARD_THREADS, 7) name(const Task task) { \
        backward<format>(task);                                                                    \
    }
BACKWARD(splat_backward_float32, FLOAT32)
BACKWARD(splat_backward_float16, FLOAT16)
BACKWARD(splat_backward_bfloat16, BFLOAT16)
