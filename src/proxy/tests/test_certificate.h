// proxy/tests/test_certificate.h
//
// A certificate that signs itself, for localhost, in files of a folder that goes with it.
//
//   const TestCertificate certificate;
//   options.tls = certificate.files();
//
// Thread safety: one thread.
#pragma once

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "proxy/proxy_options.h"

namespace sublet {

class TestCertificate {
 public:
  TestCertificate() {
    std::string path = "/tmp/sublet-tls-XXXXXX";
    EXPECT_NE(::mkdtemp(path.data()), nullptr);
    folder_ = path;
    EVP_PKEY* const key = EVP_EC_gen("P-256");
    X509* const certificate = ::X509_new();
    ::X509_set_version(certificate, 2);
    ::ASN1_INTEGER_set(::X509_get_serialNumber(certificate), 1);
    ::X509_gmtime_adj(::X509_getm_notBefore(certificate), -3600);
    ::X509_gmtime_adj(::X509_getm_notAfter(certificate), 3600);
    X509_NAME* const name = ::X509_get_subject_name(certificate);
    ::X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                                 reinterpret_cast<const unsigned char*>("test"), -1, -1, 0);
    ::X509_set_issuer_name(certificate, name);
    X509_EXTENSION* const names =
        ::X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
    ::X509_add_ext(certificate, names, -1);
    ::X509_set_pubkey(certificate, key);
    EXPECT_GT(::X509_sign(certificate, key, ::EVP_sha256()), 0);
    FILE* const chain_file = std::fopen(files().certificate_chain.c_str(), "w");
    ::PEM_write_X509(chain_file, certificate);
    std::fclose(chain_file);
    FILE* const key_file = std::fopen(files().private_key.c_str(), "w");
    ::PEM_write_PrivateKey(key_file, key, nullptr, nullptr, 0, nullptr, nullptr);
    std::fclose(key_file);
    ::X509_EXTENSION_free(names);
    ::X509_free(certificate);
    ::EVP_PKEY_free(key);
  }
  ~TestCertificate() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  TestCertificate(const TestCertificate&) = delete;
  TestCertificate& operator=(const TestCertificate&) = delete;

  TlsFiles files() const { return {folder_ + "/chain.pem", folder_ + "/key.pem"}; }

 private:
  std::string folder_;
};

}  // namespace sublet
