// Azure's and BurstGPT's traces: CSV, with lengths and no content.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "replay/trace_lines.h"
#include "replay/trace_reader.h"

namespace sublet {
namespace {

constexpr std::size_t kColumnsMax = 64;

// Neither publisher quotes; a comma within quotes would shift the columns, so a quote is an error.
Result<std::vector<std::string_view>> ColumnsOfLine(const TraceLines& lines,
                                                    std::string_view line) {
  if (line.find('"') != std::string_view::npos) return lines.Fails("a quoted column");
  std::vector<std::string_view> columns;
  while (columns.size() <= kColumnsMax) {
    const std::size_t comma = line.find(',');
    columns.push_back(line.substr(0, comma));
    if (comma == std::string_view::npos) return columns;
    line.remove_prefix(comma + 1);
  }
  return lines.Fails(fmt::format("more than {} columns", kColumnsMax));
}

// The whole of `text` as a number.
template <typename T>
std::optional<T> NumberIn(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Seconds since the trace's zero, within bounds: "5", "110.5".
std::optional<std::int64_t> SecondsIn(std::string_view text) {
  const std::optional<double> seconds = NumberIn<double>(text);
  if (!seconds || !(*seconds >= 0 && *seconds <= kTraceSecondsMax)) return std::nullopt;
  return std::llround(*seconds * 1e9);
}

// "2023-11-16 18:15:46.6805900" as nanoseconds since 1970, UTC; the fraction may be missing, and
// "+00:00" may follow (the release of 2024).
std::optional<std::int64_t> DateIn(std::string_view text) {
  if (text.ends_with("+00:00")) text.remove_suffix(6);
  constexpr std::string_view kForm = "dddd-dd-dd dd:dd:dd";
  if (text.size() < kForm.size()) return std::nullopt;
  for (std::size_t i = 0; i < kForm.size(); ++i) {
    const bool digit = text[i] >= '0' && text[i] <= '9';
    if (kForm[i] == 'd' ? !digit : text[i] != kForm[i]) return std::nullopt;
  }
  const auto part = [&](std::size_t at, std::size_t size) {
    return *NumberIn<int>(text.substr(at, size));
  };
  const std::chrono::year_month_day day{std::chrono::year(part(0, 4)),
                                        std::chrono::month(static_cast<unsigned>(part(5, 2))),
                                        std::chrono::day(static_cast<unsigned>(part(8, 2)))};
  const int hour = part(11, 2);
  const int minute = part(14, 2);
  const int second = part(17, 2);
  if (!day.ok() || day.year() < std::chrono::year(1970) || day.year() > std::chrono::year(2200)) {
    return std::nullopt;
  }
  if (hour > 23 || minute > 59 || second > 60) return std::nullopt;
  const std::int64_t days = std::chrono::sys_days(day).time_since_epoch().count();
  std::int64_t ns = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1'000'000'000;
  std::string_view fraction = text.substr(kForm.size());
  if (fraction.empty()) return ns;
  if (fraction.front() != '.' || fraction.size() < 2 || fraction.size() > 10) return std::nullopt;
  fraction.remove_prefix(1);
  const std::optional<std::uint32_t> digits = NumberIn<std::uint32_t>(fraction);
  if (!digits) return std::nullopt;
  std::int64_t unit = 1'000'000'000;
  for (std::size_t i = 0; i < fraction.size(); ++i) unit /= 10;
  return ns + *digits * unit;
}

class CsvTraceReader {
 public:
  explicit CsvTraceReader(TraceLines lines)
      : lines_(lines), builder_(std::string(lines.source()), std::nullopt) {}

  Result<Trace> Read() {
    RETURN_IF_ERROR(ReadHeader());
    while (const auto line = lines_.Next()) {
      if (line->size() > kTraceLineBytesMax) return lines_.Fails("a line of more than 16 MiB");
      RETURN_IF_ERROR(ReadRow(*line));
      if (builder_.full()) break;
    }
    Result<Trace> trace = builder_.Finish();
    if (!trace) return lines_.Fails(std::move(trace).error().message);
    return trace;
  }

 private:
  Status ReadHeader() {
    const std::optional<std::string_view> line = lines_.Next();
    if (!line) return lines_.Fails("an empty trace");
    ASSIGN_OR_RETURN(const auto columns, ColumnsOfLine(lines_, *line));
    columns_ = columns.size();
    const auto find = [&](std::string_view name) {
      return static_cast<std::size_t>(std::ranges::find(columns, name) - columns.begin());
    };
    azure_ = find("ContextTokens") < columns_;
    time_ = find(azure_ ? "TIMESTAMP" : "Timestamp");
    input_ = find(azure_ ? "ContextTokens" : "Request tokens");
    output_ = find(azure_ ? "GeneratedTokens" : "Response tokens");
    if (std::max({time_, input_, output_}) < columns_) return {};
    return lines_.Fails(
        fmt::format("not the head of a trace that is known: {}", line->substr(0, 60)),
        "known are Mooncake and Qwen-Bailian (a JSON object a line), Azure "
        "(TIMESTAMP,ContextTokens,GeneratedTokens) and BurstGPT "
        "(Timestamp,Model,Request tokens,Response tokens)");
  }

  Status ReadRow(std::string_view line) {
    ASSIGN_OR_RETURN(const auto columns, ColumnsOfLine(lines_, line));
    if (columns.size() != columns_) {
      return lines_.Fails(fmt::format("{} columns, the head has {}", columns.size(), columns_));
    }
    const std::string_view time = columns[time_];
    const std::optional<std::int64_t> at_ns = azure_ ? DateIn(time) : SecondsIn(time);
    if (!at_ns) return lines_.Fails(fmt::format("not a time: {}", time.substr(0, 40)));
    ASSIGN_OR_RETURN(const std::uint32_t input, ReadLength(columns[input_], kPromptTokensMax));
    ASSIGN_OR_RETURN(const std::uint32_t output, ReadLength(columns[output_], kOutputTokensMax));
    if (input == 0) return {};  // BurstGPT's requests that failed at once.
    builder_.Piece(builder_.NewContent(), input);
    builder_.Add({.at_ns = *at_ns, .output_tokens = output});
    return {};
  }

  Result<std::uint32_t> ReadLength(std::string_view column, std::uint32_t max) const {
    const std::optional<std::uint32_t> length = NumberIn<std::uint32_t>(column);
    if (length && *length <= max) return *length;
    return lines_.Fails(
        fmt::format("not a number of tokens up to {}: {}", max, column.substr(0, 40)));
  }

  TraceLines lines_;
  TraceBuilder builder_;
  bool azure_ = false;
  std::size_t columns_ = 0;
  std::size_t time_ = 0;
  std::size_t input_ = 0;
  std::size_t output_ = 0;
};

}  // namespace

Result<Trace> ParseCsvTrace(TraceLines lines) {
  return CsvTraceReader(lines).Read();
}

}  // namespace sublet
