// base/terminal.h
//
// Text for people at a terminal: colours where they are wanted, bars, numbers with separators,
// sentences in lines.
//
//   const Painter paint(colour);
//   out += paint.Bold("40 replicas") + "  " + BarText(0.64, 24);
//
// Colours follow meaning: good is green, bad is yellow, what is less important is dim.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace sublet {

class Painter {
 public:
  explicit Painter(bool colour) : colour_(colour) {}

  std::string Bold(std::string_view text) const { return Wrap("1", text); }
  std::string Dim(std::string_view text) const { return Wrap("2", text); }
  std::string Good(std::string_view text) const { return Wrap("32", text); }
  std::string Bad(std::string_view text) const { return Wrap("33", text); }
  // Things side by side get different colours.
  std::string Series(std::size_t index, std::string_view text) const;

 private:
  std::string Wrap(std::string_view code, std::string_view text) const;
  bool colour_;
};

// A bar of `part` (0 to 1) of `width` columns, in eighths of a column: "██████▍". Not padded.
std::string BarText(double part, int width);

// Columns that UTF-8 text takes, as far as every character takes one.
int ColumnsOf(std::string_view text);
// Filled up with spaces to `width` columns.
std::string PaddedRight(std::string_view text, int width);
std::string PaddedLeft(std::string_view text, int width);

// "25,589": rounded to a whole number, halves away from zero, with separators.
std::string Grouped(double number);
// "0.24", "13.9", "158": three digits that count.
std::string ThreeDigits(double number);

// Breaks a sentence at spaces into lines of at most `width` columns. The first begins at the column
// `indent`, where the caller is; the others are indented so far.
std::string WrappedText(std::string_view text, int indent, int width);

}  // namespace sublet
