#include "model/http_url.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string TextOf(std::string_view url) {
  const Result<HttpUrl> parsed = ParseHttpUrl(url);
  return parsed ? parsed->Text() : parsed.error().message;
}

TEST(HttpUrl, ComesApart) {
  const Result<HttpUrl> url = ParseHttpUrl("https://LLM.example:8443/a/b/");
  ASSERT_TRUE(url) << url.error().message;
  EXPECT_TRUE(url->tls);
  EXPECT_EQ(url->host, "llm.example");
  EXPECT_EQ(url->port, 8443);
  EXPECT_EQ(url->path, "/a/b");
  EXPECT_EQ(url->Authority(), "llm.example:8443");
}

TEST(HttpUrl, IsOneTextForOnePlace) {
  EXPECT_EQ(TextOf("http://h"), "http://h:80");
  EXPECT_EQ(TextOf("http://H:80/"), "http://h:80");
  EXPECT_EQ(TextOf("https://h//"), "https://h:443");
  EXPECT_EQ(TextOf("http://[::1]:8000"), "http://[::1]:8000");
  EXPECT_EQ(ParseHttpUrl("http://[::1]:8000")->host, "::1");
}

TEST(HttpUrl, RefusesWhatIsNoReplica) {
  for (const char* url :
       {"", "h:80", "ftp://h", "http://", "http://:80", "http://h:0", "http://h:65536",
        "http://h:8x", "http://h:", "http://h?x=1", "http://h/#a", "http://a b", "http://h\n",
        "http://[::1", "http://[h]:80", "http://[::1]80", "http://h\x80", "http://::1:80"}) {
    EXPECT_FALSE(ParseHttpUrl(url)) << url;
  }
}

TEST(HttpUrl, DoesNotShowAPassword) {
  const Result<HttpUrl> url = ParseHttpUrl("http://me:secret@h");
  ASSERT_FALSE(url);
  EXPECT_THAT(url.error().message + url.error().hint, Not(HasSubstr("secret")));
}

}  // namespace
}  // namespace sublet
