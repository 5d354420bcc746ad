// Causal attention, what every kernel of it shares: the argument block and which rows and head a block owns.
//
//   o[t] = sum_{s <= t} p[t, s] v[s],  p[t, s] = exp(q[t].k[s] scale - lse[t]),  per head, within each sequence.
//   dv[s] = sum_t p[t, s] do[t];  ds = p (do[t].v[s] - delta[t]), delta[t] = do[t].o[t];  dq = scale ds k, dk = scale ds^T q.
// With p.angles q and k are what rotary positions (rope.cu) made of others, and dq and dk are the gradients of those: turned back.
//
// Defines: DTYPE (common.cuh), HEAD = head_size, PACKED = 1: rows by p.plan.
// q, o and their gradients are [N, heads, HEAD], k and v [N, kv_heads, HEAD], rows ld* apart; lse and delta fp32 [heads, N].
#pragma once
#include "common.cuh"

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

struct Attention {
    const elem* q;
    const elem* k;
    const elem* v;
    const elem* d_o;
    elem* o;               // backward reads it
    elem* dq;
    elem* dk;
    elem* dv;
    float* lse;
    float* delta;
    const int4* plan;      // packed: {first row, sequence start, sequence end, sequence} per tile; first < 0 = none
    const float2* angles;  // [positions][HEAD / 2] of (cos, sin), or none
    i64 ldq, ldk, ldv, ldo, lddo, lddq, lddk, lddv;
    int rows, seq_len, tiles_per_seq, tiles;
    int heads, kv_heads;
    int group;             // equal sequences: pairs of sequence and head whose blocks run side by side
    float scale;
};

// The rows that a block owns: row0 .. of the sequence start .. end, in one head.
struct Tile {
    int row0, start, end, head;
};

// Block -> tile, `heads` of them; false where there is none. Blocks start in order, and a sequence's later rows of queries
// (last_first) or earlier rows of keys have the most work, so these come first within a group of heads whose keys fit the L2 cache.
__device__ __forceinline__ bool tile_of_block(const Attention& p, int block, int len, int heads, bool last_first, Tile& t) {
#if PACKED
    const int tile = block / heads;
    const int4 q = p.plan[last_first ? p.tiles - 1 - tile : tile];
    t.head = block % heads;
    t.row0 = q.x; t.start = q.y; t.end = q.z;
    return q.x >= 0;
#else
    const int pairs = p.rows / p.seq_len * heads, first = block / (p.tiles_per_seq * p.group) * p.group;
    const int width = min(p.group, pairs - first), r = block - first * p.tiles_per_seq;
    const int pair = first + r % width, tile = last_first ? p.tiles_per_seq - 1 - r / width : r / width;
    t.head = pair % heads;
    t.start = pair / heads * p.seq_len;
    t.end = t.start + p.seq_len;
    t.row0 = t.start + tile * len;
    return true;
#endif
}
