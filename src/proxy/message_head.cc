#include "proxy/message_head.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/error.hpp>
#include <cstring>
#include <limits>

namespace sublet::internal {
namespace {

namespace http = boost::beast::http;

// What may stand between two pieces of a chunked body: a size, or the trailers. Nobody needs more,
// and nothing else bounds what has to be kept of them.
constexpr std::size_t kChunkHeadBytesMax = 8u << 10;

constexpr std::size_t kLastChunkBytes = 5;  // "0\r\n\r\n"

std::string_view Std(boost::beast::string_view text) {
  return {text.data(), text.size()};
}

char Lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
}

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// "." or ".." where each dot may be written "%2e".
bool IsDotSegment(std::string_view segment) {
  int dots = 0;
  while (!segment.empty()) {
    if (segment.front() == '.') {
      segment.remove_prefix(1);
    } else if (segment.size() >= 3 && segment[0] == '%' && segment[1] == '2' &&
               Lower(segment[2]) == 'e') {
      segment.remove_prefix(3);
    } else {
      return false;
    }
    if (++dots > 2) return false;
  }
  return dots > 0;
}

}  // namespace

bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(),
                                            [](char x, char y) { return Lower(x) == Lower(y); });
}

bool ListHas(std::string_view value, std::string_view token) {
  while (!value.empty()) {
    const std::size_t comma = std::min(value.find(','), value.size());
    if (EqualsIgnoringCase(Trimmed(value.substr(0, comma)), token)) return true;
    value.remove_prefix(std::min(comma + 1, value.size()));
  }
  return false;
}

bool IsPlainTarget(std::string_view target) {
  if (target.empty() || target.front() != '/') return false;
  const bool visible = std::all_of(target.begin(), target.end(), [](char c) {
    return c > 0x20 && c < 0x7f && c != '#' && c != '\\';
  });
  if (!visible) return false;
  std::string_view path = target.substr(1, target.find('?') - 1);
  while (true) {
    const std::size_t slash = path.find('/');
    if (IsDotSegment(path.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    path.remove_prefix(slash + 1);
  }
}

HeadEnd::Look HeadEnd::At(std::string_view text, std::size_t bytes_max, int fields_max) {
  while (true) {
    const std::size_t searched = std::min(text.size(), bytes_max);
    const auto* const from = text.data() + next_;
    const auto* const found =
        next_ < searched ? static_cast<const char*>(std::memchr(from, '\n', searched - next_))
                         : nullptr;
    if (found == nullptr) return text.size() >= bytes_max ? Look::kTooLong : Look::kMore;
    const auto at = static_cast<std::size_t>(found - text.data());
    if (at == 0 || text[at - 1] != '\r') return Look::kBad;
    const bool folded = lines_ > 0 && (text[next_] == ' ' || text[next_] == '\t');
    const bool empty = at == next_ + 1;
    if (folded || (empty && lines_ == 0)) return Look::kBad;
    next_ = at + 1;
    if (empty) return Look::kWhole;
    ++lines_;
    if (lines_ > fields_max + 1) return Look::kTooLong;  // And the line in front of the fields.
  }
}

// ---- what Beast calls --------------------------------------------------------------------------

template <bool kIsRequest>
void MessageReader<kIsRequest>::Parser::on_request_impl(http::verb verb, View method, View target,
                                                        int version, Code& /*error*/) {
  MessageHead& head = reader_.head_;
  head.verb = verb;
  head.method = Std(method);
  head.target = Std(target);
  head.minor_version = version - 10;
}

template <bool kIsRequest>
void MessageReader<kIsRequest>::Parser::on_response_impl(int status, View reason, int version,
                                                         Code& /*error*/) {
  reader_.head_.status = status;
  reader_.head_.reason = Std(reason);
  reader_.head_.minor_version = version - 10;
}

template <bool kIsRequest>
void MessageReader<kIsRequest>::Parser::on_field_impl(http::field id, View name, View value,
                                                      Code& /*error*/) {
  if (!reader_.head_read_) reader_.head_.fields.push_back({id, Std(name), Std(value)});
}

template <bool kIsRequest>
void MessageReader<kIsRequest>::Parser::on_header_impl(Code& /*error*/) {}

template <bool kIsRequest>
void MessageReader<kIsRequest>::Parser::on_body_init_impl(
    const boost::optional<std::uint64_t>& /*length*/, Code& /*error*/) {}

// Bodies that aren't chunked don't come by here.
template <bool kIsRequest>
std::size_t MessageReader<kIsRequest>::Parser::on_body_impl(View body, Code& /*error*/) {
  return body.size();
}

template <bool kIsRequest>
void MessageReader<kIsRequest>::Parser::on_chunk_header_impl(std::uint64_t size, View extensions,
                                                             Code& error) {
  // No client of an engine sends any, and two readers that don't agree where one ends don't agree
  // where the body does. A replica's are dropped.
  if (kIsRequest && !extensions.empty()) error = http::error::bad_chunk_extension;
  reader_.remaining_ = size;
}

template <bool kIsRequest>
std::size_t MessageReader<kIsRequest>::Parser::on_chunk_body_impl(std::uint64_t /*remain*/,
                                                                  View body, Code& /*error*/) {
  if (!body.empty()) reader_.pieces_->push_back(Std(body));
  reader_.remaining_ -= body.size();
  return body.size();
}

template <bool kIsRequest>
void MessageReader<kIsRequest>::Parser::on_finish_impl(Code& /*error*/) {}

// ---- the head ----------------------------------------------------------------------------------

template <bool kIsRequest>
Status MessageReader<kIsRequest>::ReadHead(std::string_view text, bool bodiless) {
  head_.fields.clear();
  head_read_ = false;
  done_ = false;
  parser_.emplace(*this);
  parser_->header_limit(std::numeric_limits<std::uint32_t>::max());  // HeadEnd has seen to it.
  parser_->body_limit(boost::none);                                  // Whoever reads counts.
  parser_->skip(bodiless);
  Code error;
  const std::size_t used = parser_->put(boost::asio::buffer(text), error);
  if (error) return Fail(ErrorCode::kInvalid, error.message());
  // Otherwise Beast ended the head elsewhere than HeadEnd, and nobody knows where it ends.
  if (used != text.size() || !parser_->is_header_done()) {
    return Fail(ErrorCode::kInvalid, "the head has no clear end");
  }
  head_read_ = true;
  RETURN_IF_ERROR(CheckFields());
  FrameBody(bodiless);
  return {};
}

template <bool kIsRequest>
Status MessageReader<kIsRequest>::CheckFields() {
  if (!kIsRequest && (head_.status < 100 || head_.status > 599)) {
    return Fail(ErrorCode::kInvalid, "a status that isn't one");
  }
  int hosts = 0;
  int lengths = 0;
  int codings = 0;
  for (const HeadField& field : head_.fields) {
    hosts += field.id == http::field::host ? 1 : 0;
    if (field.id == http::field::content_length) {
      ++lengths;
      const bool digits = std::all_of(field.value.begin(), field.value.end(),
                                      [](char c) { return c >= '0' && c <= '9'; });
      if (!digits) return Fail(ErrorCode::kInvalid, "the content length isn't a number");
    }
    if (field.id == http::field::transfer_encoding) {
      ++codings;
      if (!EqualsIgnoringCase(field.value, "chunked")) {
        return Fail(ErrorCode::kInvalid, "a transfer coding that isn't chunked");
      }
    }
  }
  if (lengths > 1) return Fail(ErrorCode::kInvalid, "the content length is given twice");
  if (codings > 1) return Fail(ErrorCode::kInvalid, "the transfer coding is given twice");
  if (lengths > 0 && codings > 0) {
    return Fail(ErrorCode::kInvalid, "a content length and a transfer coding");
  }
  if (codings > 0 && head_.minor_version == 0) {
    return Fail(ErrorCode::kInvalid, "a transfer coding in HTTP/1.0");
  }
  if (kIsRequest && (hosts > 1 || (hosts == 0 && head_.minor_version == 1))) {
    return Fail(ErrorCode::kInvalid, "a request needs one Host");
  }
  return {};
}

template <bool kIsRequest>
void MessageReader<kIsRequest>::FrameBody(bool bodiless) {
  const auto length = parser_->content_length();
  head_.stated = length ? std::optional<std::uint64_t>(*length) : std::nullopt;
  head_.length = 0;
  head_.keep_alive = parser_->keep_alive();
  const int status = head_.status;
  if (bodiless || (!kIsRequest && (status / 100 == 1 || status == 204 || status == 304))) {
    head_.framing = BodyFraming::kNone;
  } else if (parser_->chunked()) {
    head_.framing = BodyFraming::kChunked;
  } else if (head_.stated) {
    head_.framing = *head_.stated > 0 ? BodyFraming::kLength : BodyFraming::kNone;
    head_.length = *head_.stated;
  } else {
    head_.framing = kIsRequest ? BodyFraming::kNone : BodyFraming::kUntilClose;
  }
  remaining_ = head_.length;
  done_ = head_.framing == BodyFraming::kNone;
}

// ---- the body ----------------------------------------------------------------------------------

template <bool kIsRequest>
Result<std::size_t> MessageReader<kIsRequest>::Decode(std::string_view text,
                                                      std::vector<std::string_view>& pieces) {
  if (done_ || text.empty()) return std::size_t{0};
  if (head_.framing != BodyFraming::kChunked) {
    const bool counted = head_.framing == BodyFraming::kLength;
    const std::size_t taken =
        counted ? static_cast<std::size_t>(std::min<std::uint64_t>(text.size(), remaining_))
                : text.size();
    pieces.push_back(text.substr(0, taken));
    if (counted) remaining_ -= taken;
    done_ = counted && remaining_ == 0;
    return taken;
  }
  // Between two chunks, less than the shortest that can end a body: Beast asserts that it never
  // gets a part of that a second time.
  if (remaining_ == 0 && text.size() < kLastChunkBytes) return std::size_t{0};
  pieces_ = &pieces;
  parser_->eager(true);
  Code error;
  const std::size_t used = parser_->put(boost::asio::buffer(text), error);
  pieces_ = nullptr;
  if (error && error != http::error::need_more) {
    return Fail(ErrorCode::kInvalid, error.message());
  }
  if (text.size() - used > kChunkHeadBytesMax && !parser_->is_done()) {
    return Fail(ErrorCode::kInvalid, "the head of a chunk is too long");
  }
  done_ = parser_->is_done();
  return used;
}

template <bool kIsRequest>
bool MessageReader<kIsRequest>::EndOfInput() {
  if (head_.framing == BodyFraming::kUntilClose) done_ = true;
  return done_;
}

template class MessageReader<true>;
template class MessageReader<false>;

}  // namespace sublet::internal
