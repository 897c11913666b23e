#include "http/http_message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "http/http_request.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;

TEST(HttpMessage, CarriesEveryErrorWhole) {
  std::set<std::string> names;
  for (int i = 0; i <= static_cast<int>(ErrorCode::kInternal); ++i) {
    const Error error{static_cast<ErrorCode>(i), "a \"message\"\nwith ä", "and a hint"};
    const int status = HttpStatusOf(error.code);
    EXPECT_GE(status, 400);
    const Error back = ErrorFromBody(status, ErrorBody(error));
    EXPECT_EQ(back.code, error.code);
    EXPECT_EQ(back.message, error.message);
    EXPECT_EQ(back.hint, error.hint);
    names.insert(std::string(ErrorCodeName(error.code)));
  }
  EXPECT_EQ(names.size(), 10u);
}

TEST(HttpMessage, ReplacesWhatIsNoText) {
  const std::string body = ErrorBody({ErrorCode::kIo, "path \xff\xfe", ""});
  EXPECT_EQ(ErrorFromBody(500, body).message, "path \xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(body.find("hint"), std::string::npos);
}

TEST(HttpMessage, MakesSenseOfForeignAnswers) {
  EXPECT_EQ(ErrorFromBody(404, "<html>nginx\r\n</html>").code, ErrorCode::kNotFound);
  EXPECT_EQ(ErrorFromBody(404, "<html>nginx\r\n</html>").message,
            "the answer has status 404: <html>nginx  </html>");
  EXPECT_EQ(ErrorFromBody(502, "").code, ErrorCode::kUnavailable);
  EXPECT_EQ(ErrorFromBody(400, "[]").code, ErrorCode::kInvalid);
  EXPECT_EQ(ErrorFromBody(403, "{\"error\":{\"code\":\"of tomorrow\",\"message\":\"m\"}}").code,
            ErrorCode::kPermission);
  EXPECT_EQ(ErrorFromBody(403, "{\"error\":{\"code\":7,\"message\":[]}}").message, "");
}

TEST(RequestTarget, IsDecodedAndPlain) {
  const auto target = internal::ParseTarget("/v1/logs/chat%2f0?lines=10&follow=1&q=a%26b%3Dc");
  ASSERT_TRUE(target);
  EXPECT_EQ(target->path, "/v1/logs/chat/0");
  EXPECT_EQ(target->query.at("lines"), "10");
  EXPECT_EQ(target->query.at("q"), "a&b=c");
  EXPECT_EQ(target->query.size(), 3u);
  EXPECT_EQ(internal::ParseTarget("/")->path, "/");
}

TEST(RequestTarget, IsRefusedWhereItCouldMislead) {
  for (const char* target :
       {"", "v1", "*", "http://other/v1", "/v1/../secret", "/v1/%2e%2e/secret", "/v1/a%2F..%2Fb",
        "/v1/..", "/./v1", "/v1/%00", "/v1?x=%00", "/v1/%zz", "/v1/a b", "/v1/ä", "/v1#part"}) {
    EXPECT_FALSE(internal::ParseTarget(target)) << target;
  }
}

TEST(BearerToken, MustBeTheWholeOne) {
  EXPECT_TRUE(internal::BearerIs("Bearer abc", "abc"));
  EXPECT_FALSE(internal::BearerIs("Bearer abd", "abc"));
  EXPECT_FALSE(internal::BearerIs("Bearer abcabc", "abc"));
  EXPECT_FALSE(internal::BearerIs("Bearer ab", "abc"));
  EXPECT_FALSE(internal::BearerIs("Bearer ", "abc"));
  EXPECT_FALSE(internal::BearerIs("Bearer", "abc"));
  EXPECT_FALSE(internal::BearerIs("abc", "abc"));
  EXPECT_FALSE(internal::BearerIs("", "abc"));
}

}  // namespace
}  // namespace sublet
