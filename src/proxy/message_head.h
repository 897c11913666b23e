// proxy/message_head.h
//
// The head of an HTTP/1.1 message, read strictly, and the framing of its body.
//
//   HeadEnd end(limits);
//   switch (end.Look(input.text())) { ... }          // Whole? Too long? Not HTTP?
//   MessageReader<true> reader;                      // true: requests.
//   ASSIGN_OR_RETURN... reader.ReadHead(head_text);  // Views into `head_text`.
//   reader.Decode(input.text(), pieces);             // The body, without copying it.
//
// Beast's parser does the reading. On top of what it refuses, nothing is let through that two
// readers have ever been found to read differently: lines that end in a bare LF, folded lines, a
// length together with chunks, a length given twice, any transfer coding but `chunked`, chunk
// extensions in requests, targets that aren't a plain path. What is sent on is made anew from what
// was read, so that both sides of the proxy see the same message by construction.
//
// Thread safety: one thread at a time.
#pragma once

#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/field.hpp>
#include <boost/beast/http/verb.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sublet::internal {

// Finds where a head ends while its bytes come in, looking at each byte once.
class HeadEnd {
 public:
  enum class Look { kMore, kWhole, kBad, kTooLong };

  void Reset() { *this = HeadEnd(); }
  // `text` begins with the head, and is what it was the last time or longer.
  Look At(std::string_view text, std::size_t bytes_max, int fields_max);
  // With the empty line that ends it. REQUIRES: the last look was kWhole.
  std::size_t size() const { return next_; }

 private:
  std::size_t next_ = 0;  // Where the first line begins that hasn't been looked at.
  int lines_ = 0;
};

struct HeadField {
  boost::beast::http::field id = boost::beast::http::field::unknown;
  std::string_view name;
  std::string_view value;
};

enum class BodyFraming { kNone, kLength, kChunked, kUntilClose };

struct MessageHead {
  // Of a request.
  boost::beast::http::verb verb = boost::beast::http::verb::unknown;
  std::string_view method;
  std::string_view target;
  // Of an answer.
  int status = 0;
  std::string_view reason;

  int minor_version = 1;  // Of HTTP/1.x.
  std::vector<HeadField> fields;
  BodyFraming framing = BodyFraming::kNone;
  std::uint64_t length = 0;             // kLength.
  std::optional<std::uint64_t> stated;  // The length as the head has it, of a HEAD's answer too.
  bool keep_alive = false;              // As far as the head says.
};

template <bool kIsRequest>
class MessageReader {
 public:
  // `text` is a whole head (HeadEnd) and must outlive the use of head(). `bodiless`: the answer to
  // a HEAD. Fails with kInvalid; the message quotes nothing of the text.
  Status ReadHead(std::string_view text, bool bodiless = false);
  const MessageHead& head() const { return head_; }

  // Appends the parts of `text` that are body to `pieces` and returns how much of `text` was used;
  // the rest must be there again, with more behind it, the next time. Fails with kInvalid where the
  // framing is broken. REQUIRES: ReadHead() has succeeded.
  Result<std::size_t> Decode(std::string_view text, std::vector<std::string_view>& pieces);
  // Whether all of the body has come.
  bool done() const { return done_; }
  // The sender has closed; returns whether that ends the body as it should.
  bool EndOfInput();

 private:
  using Code = boost::system::error_code;
  using View = boost::beast::string_view;

  // What Beast calls while it parses; one for each message, since it can't be used twice.
  class Parser : public boost::beast::http::basic_parser<kIsRequest> {
   public:
    explicit Parser(MessageReader& reader) : reader_(reader) {}

   private:
    void on_request_impl(boost::beast::http::verb verb, View method, View target, int version,
                         Code& error) override;
    void on_response_impl(int status, View reason, int version, Code& error) override;
    void on_field_impl(boost::beast::http::field id, View name, View value, Code& error) override;
    void on_header_impl(Code& error) override;
    void on_body_init_impl(const boost::optional<std::uint64_t>& length, Code& error) override;
    std::size_t on_body_impl(View body, Code& error) override;
    void on_chunk_header_impl(std::uint64_t size, View extensions, Code& error) override;
    std::size_t on_chunk_body_impl(std::uint64_t remain, View body, Code& error) override;
    void on_finish_impl(Code& error) override;

    MessageReader& reader_;
  };

  Status CheckFields();
  void FrameBody(bool bodiless);

  std::optional<Parser> parser_;
  MessageHead head_;
  std::vector<std::string_view>* pieces_ = nullptr;  // Of the Decode() that runs.
  bool head_read_ = false;                           // Further fields are trailers.
  std::uint64_t remaining_ = 0;                      // kLength; kChunked: of the chunk.
  bool done_ = false;
};

// Whether the target is a path with an optional query, in visible ASCII, without dot segments in
// any spelling and without a fragment.
bool IsPlainTarget(std::string_view target);

// Whether `value` is a list, as in Connection, that has `token`, whatever its case.
bool ListHas(std::string_view value, std::string_view token);
bool EqualsIgnoringCase(std::string_view a, std::string_view b);

}  // namespace sublet::internal
