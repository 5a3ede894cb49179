// Element-wise work on shares: one pass over memory each. Plain loops, which the compiler makes vectors of, for each instruction
// set anew. No input overlaps an output.

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "octets are taken from words as they lie in memory, lowest first"
#endif

// Elements that are worked on at once where several passes read the same: they stay in the nearest cache.
constexpr Index kBlock = 2048;

inline Word ring_mask(int bits) { return ~Word{0} >> (64 - bits); }

// out = a + b, or a - b, mod 2^bits
void combine(Index count, const Word* __restrict a, const Word* __restrict b, bool subtract, int bits, Word* __restrict out) {
  const Word keep = ring_mask(bits), flip = subtract ? ~Word{0} : 0;
  for (Index i = 0; i < count; ++i) out[i] = (a[i] + ((b[i] ^ flip) - flip)) & keep;
}

// One evaluator's share of x y from its parts of x and y and the share of lx ly that was dealt, in units of 2^up.
void cross_share(Index count, const Word* __restrict mx, const Word* __restrict lx, const Word* __restrict my,
                 const Word* __restrict ly, const Word* __restrict dealt, int up, bool lead, Word* __restrict out) {
  const Word take = lead ? ~Word{0} : 0;
  for (Index i = 0; i < count; ++i) out[i] = mx[i] * ((my[i] & take) - ly[i]) - lx[i] * my[i] + (dealt[i] << up);
}

// An additive share mod 2^bits, shifted: rounded down at the lead, up at the other.
void shift_share(Index count, const Word* __restrict words, int by, int bits, bool lead, Word* __restrict out) {
  const Word keep = ring_mask(bits), flip = lead ? 0 : ~Word{0};
  for (Index i = 0; i < count; ++i) {
    const Word shifted = (((words[i] ^ flip) - flip) & keep) >> by;
    out[i] = ((shifted ^ flip) - flip) & keep;
  }
}

// The word mod 2^bits, rounded to a multiple of 2^by, in units of it
void round_shift(Index count, const Word* __restrict words, int by, int bits, Word* __restrict out) {
  const Word keep = ring_mask(bits), half = (Word{1} << by) >> 1;
  for (Index i = 0; i < count; ++i) out[i] = ((words[i] + half) & keep) >> by;
}

template <class T>
void column_to(Index count, const Word* words, int low, Word keep, Octet* out) {
  for (Index i = 0; i < count; ++i) {
    const T part = static_cast<T>((words[i] & keep) >> low);
    std::memcpy(out + i * static_cast<Index>(sizeof(T)), &part, sizeof(T));
  }
}

template <class T>
void column_from(Index count, const Octet* octets, int low, Word* out) {
  for (Index i = 0; i < count; ++i) {
    T part;
    std::memcpy(&part, octets + i * static_cast<Index>(sizeof(T)), sizeof(T));
    out[i] = (low ? out[i] : 0) | static_cast<Word>(part) << low;
  }
}

// Calls visit(first octet, octets) for every column of words of so many octets, the widest first.
template <class Visit>
void each_column(int width, Visit visit) {
  int at = 0;
  for (int size = 8; size > 0; size /= 2) {
    if (width - at < size) continue;
    visit(at, size);
    at += size;
  }
}

void to_octets(Index count, const Word* words, int bits, Octet* out) {
  const Word keep = ring_mask(bits);
  for (Index first = 0; first < count; first += kBlock) {
    const Index here = least(kBlock, count - first);
    each_column((bits + 7) / 8, [&](int at, int size) {
      Octet* to = out + at * count + first * size;
      if (size == 8) column_to<std::uint64_t>(here, words + first, 0, keep, to);
      if (size == 4) column_to<std::uint32_t>(here, words + first, 8 * at, keep, to);
      if (size == 2) column_to<std::uint16_t>(here, words + first, 8 * at, keep, to);
      if (size == 1) column_to<std::uint8_t>(here, words + first, 8 * at, keep, to);
    });
  }
}

void from_octets(Index count, const Octet* octets, int bits, Word* out) {
  for (Index first = 0; first < count; first += kBlock) {
    const Index here = least(kBlock, count - first);
    each_column((bits + 7) / 8, [&](int at, int size) {
      const Octet* from = octets + at * count + first * size;
      if (size == 8) column_from<std::uint64_t>(here, from, 0, out + first);
      if (size == 4) column_from<std::uint32_t>(here, from, 8 * at, out + first);
      if (size == 2) column_from<std::uint16_t>(here, from, 8 * at, out + first);
      if (size == 1) column_from<std::uint8_t>(here, from, 8 * at, out + first);
    });
  }
}
