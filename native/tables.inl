// Windowed table sums. Included inside the anonymous namespace of each instruction set, after its Sums:
//   Sums::kRows, Sums::kTables   most rows and tables of one call
//   Sums::turn(size, row, turn, out, twice)      turn_long, or something faster
//   Sums::run(size, tables, bits, table, out)
//                    out[t * kRows + r] = sum of table[t * size + v] over the set bits v of row r, where row r starts at
//                    bits + r * size / 8
// The window of row i starts at its own place in the table, so instead the bits of the row are turned by index[i] and all
// rows read the same cells: aligned, shared by kRows rows, at addresses that depend on nothing.

// The row, turned right by `turn` bits: out bit v = row bit (v + turn) mod size.
inline void turn_short(Index size, const Octet* row, Word turn, Octet* out) {
  Word bits = 0;
  std::memcpy(&bits, row, size / 8);
  for (Index have = size; have < 64; have *= 2) bits |= bits << have;
  bits = (bits >> turn) | ((bits << 1) << (63 - turn));
  std::memcpy(out, &bits, size / 8);
}

void turn_long(Index size, const Octet* row, Word turn, Octet* out, Word* twice) {
  const Index bytes = size / 8, words = size / 64;
  std::memcpy(twice, row, bytes);
  std::memcpy(twice + words, row, bytes);
  twice[2 * words] = twice[0];
  const Word* from = twice + (turn >> 6);
  const Word low = turn & 63;
  Word* turned = reinterpret_cast<Word*>(out);
  for (Index w = 0; w < words; ++w) turned[w] = (from[w] >> low) | ((from[w + 1] << 1) << (63 - low));
}

void turn_rows(Index rows, Index size, const Octet* selectors, const Word* index, Octet* out, Word* twice) {
  for (Index row = 0; row < rows; ++row, selectors += size / 8, out += size / 8) {
    const Word turn = index[row] & (size - 1);
    if (size <= 64) {
      turn_short(size, selectors, turn, out);
    } else {
      Sums::turn(size, selectors, turn, out, twice);
    }
  }
}

// table[v] = cell (-v mod size): after the turn, bit v stands for cell (index - j) with j = v + index.
Word* mirror(Index size, Index tables, const Word* table) {
  Word* out = scratch(kSlotTables, tables * size);
  for (Index t = 0; t < tables; ++t) {
    for (Index v = 0; v < size; ++v) out[t * size + v] = table[t * size + ((size - v) & (size - 1))];
  }
  return out;
}

void table_sums(Index rows, Index size, Index tables, const Octet* selectors, const Word* index, const Word* table,
                Word* out) {
  const Word* cells = mirror(size, tables, table);
  Word* twice = scratch(kSlotBits, Sums::kRows * size / 64 + 2 * size / 64 + 16);
  Octet* bits = reinterpret_cast<Octet*>(twice + 2 * size / 64 + 8);
  Word part[Sums::kTables * Sums::kRows];
  for (Index row = 0; row < rows; row += Sums::kRows) {
    const Index here = least(Sums::kRows, rows - row);
    turn_rows(here, size, selectors + row * (size / 8), index + row, bits, twice);
    if (here < Sums::kRows) std::memset(bits + here * (size / 8), 0, (Sums::kRows - here) * (size / 8));
    for (Index t = 0; t < tables; t += Sums::kTables) {
      const Index some = least(Sums::kTables, tables - t);
      Sums::run(size, some, bits, cells + t * size, part);
      for (Index s = 0; s < some; ++s) {
        std::memcpy(out + (t + s) * rows + row, part + s * Sums::kRows, here * sizeof(Word));
      }
    }
  }
}
