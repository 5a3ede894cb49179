// Sums over all values of a point function, the evaluators' part of moiety/ring/points.py, with the processor's AES. Included inside
// the anonymous namespace of each instruction set that has it. Time and addresses depend on sizes and on the public index alone.

struct Cipher {
  __m128i keys[11];

  template <int Constant>
  static __m128i next(__m128i key) {
    const __m128i word = _mm_shuffle_epi32(_mm_aeskeygenassist_si128(key, Constant), 0xFF);
    for (int i = 0; i < 3; ++i) key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    return _mm_xor_si128(key, word);
  }

  explicit Cipher(const Octet* key) {
    keys[0] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(key));
    keys[1] = next<0x01>(keys[0]);
    keys[2] = next<0x02>(keys[1]);
    keys[3] = next<0x04>(keys[2]);
    keys[4] = next<0x08>(keys[3]);
    keys[5] = next<0x10>(keys[4]);
    keys[6] = next<0x20>(keys[5]);
    keys[7] = next<0x40>(keys[6]);
    keys[8] = next<0x80>(keys[7]);
    keys[9] = next<0x1B>(keys[8]);
    keys[10] = next<0x36>(keys[9]);
  }

  // x = AES(x) xor x, for N blocks at a time
  template <int N>
  void hash(__m128i* x) const {
    __m128i out[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) out[i] = _mm_xor_si128(x[i], keys[0]);
#pragma GCC unroll 9
    for (int round = 1; round < 10; ++round) {
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) out[i] = _mm_aesenc_si128(out[i], keys[round]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) x[i] = _mm_xor_si128(x[i], _mm_aesenclast_si128(out[i], keys[10]));
  }
};

// A node is its seed, whose three lowest bits are zero, with its control bit in the lowest.
inline __m128i seed_of(__m128i node) { return _mm_andnot_si128(_mm_set_epi64x(0, 7), node); }
inline __m128i controlled(__m128i node, __m128i word) {
  const __m128i bit = _mm_and_si128(node, _mm_set_epi64x(0, 1));
  return _mm_and_si128(_mm_shuffle_epi32(_mm_sub_epi64(_mm_setzero_si128(), bit), 0x44), word);
}

// N nodes of one level into the 2 N of the next, which may overlap them from their own place on.
template <int N>
void split_nodes(const Cipher& cipher, __m128i left, __m128i right, const __m128i* from, __m128i* to) {
  __m128i nodes[N], blocks[2 * N];
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) {
    nodes[i] = _mm_load_si128(from + i);
    blocks[2 * i] = seed_of(nodes[i]);
    blocks[2 * i + 1] = _mm_xor_si128(blocks[2 * i], _mm_set_epi64x(0, 1));
  }
  cipher.hash<2 * N>(blocks);
  const __m128i spare = _mm_set_epi64x(0, 6);
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) {
    _mm_store_si128(to + 2 * i, _mm_andnot_si128(spare, _mm_xor_si128(blocks[2 * i], controlled(nodes[i], left))));
    _mm_store_si128(to + 2 * i + 1, _mm_andnot_si128(spare, _mm_xor_si128(blocks[2 * i + 1], controlled(nodes[i], right))));
  }
}

// All nodes of the last level, in place: from the last ones on, so that none is written over before it is read.
void grow_tree(const Cipher& cipher, Index depth, const __m128i* steps, __m128i* nodes) {
  for (Index level = 0; level < depth; ++level) {
    const __m128i step = _mm_loadu_si128(steps + level), rest = _mm_andnot_si128(_mm_set_epi64x(0, 7), step);
    const __m128i left = _mm_or_si128(rest, _mm_and_si128(step, _mm_set_epi64x(0, 1)));
    const __m128i right = _mm_or_si128(rest, _mm_and_si128(_mm_srli_epi64(step, 1), _mm_set_epi64x(0, 1)));
    const Index count = Index{1} << level;
    if (count == 1) split_nodes<1>(cipher, left, right, nodes, nodes);
    if (count == 2) split_nodes<2>(cipher, left, right, nodes, nodes);
    for (Index at = count - 4; at >= 0; at -= 4) split_nodes<4>(cipher, left, right, nodes + at, nodes + 2 * at);
  }
}

// Word p of all leaves, two to a node, into words[p * size ...]. Four nodes at once: of two nodes, two more are read and the four
// words behind them written, in a part that comes next.
void convert_nodes(const Cipher& cipher, Index nodes, Index parts, const __m128i* node, const __m128i* last, Word* words) {
  constexpr int kAtOnce = 4;
  for (Index part = 0; part < parts; ++part) {
    const __m128i tweak = _mm_set_epi64x(0, 2 + part), correction = _mm_loadu_si128(last + part);
    __m128i* out = reinterpret_cast<__m128i*>(words + 2 * nodes * part);
    for (Index at = 0; at < nodes; at += kAtOnce) {
      __m128i blocks[kAtOnce];
#pragma GCC unroll 4
      for (int i = 0; i < kAtOnce; ++i) blocks[i] = _mm_xor_si128(seed_of(node[at + i]), tweak);
      cipher.hash<kAtOnce>(blocks);
#pragma GCC unroll 4
      for (int i = 0; i < kAtOnce; ++i) {
        _mm_store_si128(out + at + i, _mm_add_epi64(blocks[i], controlled(node[at + i], correction)));
      }
    }
  }
}

// (v, v l, v l^2, ...) of every leaf into v (m - l)^k.
void about_local(Index size, Index parts, Word local, Word* words) {
  for (Index first = 0; first + 1 < parts; ++first) {
    for (Index k = parts - 1; k > first; --k) {
      const Word* lower = words + size * (k - 1);
      Word* here = words + size * k;
      for (Index v = 0; v < size; ++v) here[v] = local * lower[v] - here[v];
    }
  }
}

void point_sums(Index rows, Index size, Index parts, Index tables, const Octet* key, const Word* roots, const Word* steps,
                const Word* last, const Word* index, const Word* local, const Word* table, bool lead, Word* out) {
  const Cipher cipher(key);
  Index depth = 0;
  while ((Index{2} << depth) < size) ++depth;
  Word* turned = scratch(kSlotTables, 2 * size * parts * tables);  // cell -x at x, twice: a window never wraps
  for (Index t = 0; t < parts * tables; ++t) {
    for (Index x = 0; x < 2 * size; ++x) turned[2 * size * t + x] = table[size * t + ((2 * size - x) & (size - 1))];
  }
  __m128i* nodes = reinterpret_cast<__m128i*>(scratch(kSlotRows, size < 8 ? 8 : size));
  Word* words = scratch(kSlotPanel, size * parts + 4);
  for (Index row = 0; row < rows; ++row) {
    const __m128i root = seed_of(_mm_loadu_si128(reinterpret_cast<const __m128i*>(roots + 2 * row)));
    _mm_store_si128(nodes, _mm_or_si128(root, _mm_set_epi64x(0, lead ? 0 : 1)));
    grow_tree(cipher, depth, reinterpret_cast<const __m128i*>(steps + 2 * depth * row), nodes);
    convert_nodes(cipher, size / 2, parts, nodes, reinterpret_cast<const __m128i*>(last + 2 * parts * row), words);
    about_local(size, parts, local[row], words);
    const Index start = static_cast<Index>((static_cast<Word>(size) - index[row]) & static_cast<Word>(size - 1));
    for (Index t = 0; t < tables; ++t) {
      Word sum = 0;
      for (Index k = 0; k < parts; ++k) {
        const Word* cells = turned + 2 * size * (t * parts + k) + start;
        const Word* leaves = words + size * k;
        for (Index v = 0; v < size; ++v) sum += cells[v] * leaves[v];
      }
      out[t * rows + row] = lead ? sum : Word{0} - sum;
    }
  }
}
