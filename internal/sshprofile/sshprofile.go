// Package sshprofile answers: which SSH algorithms do our servers use, and how do they refuse a client?
//
// The node's server and the proxy's front for stock clients share it, so that a client meets the same
// algorithms and messages at both.
package sshprofile

import (
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	// Version begins the identification string of our servers (RFC 4253 section 4.2). It does not tell the
	// release.
	Version = "SSH-2.0-Threshold"
	// MaxAuthTries is how many authentication requests a client may fail, as in OpenSSH.
	MaxAuthTries = 6
)

// NewServerConfig makes the configuration of an SSH server: algorithms, limits, and host with its certificate
// as the host key. The caller adds the callbacks that decide who may log in; without any, nobody can.
func NewServerConfig(host ssh.Signer) *ssh.ServerConfig {
	cfg := &ssh.ServerConfig{
		Config: ssh.Config{
			// The library's list of secure algorithms, ML-KEM first. Its default list, for an empty field,
			// would also have a key exchange with SHA-1.
			KeyExchanges: ssh.SupportedAlgorithms().KeyExchanges,
			// AES-GCM first: with hardware support it is three times as fast as ChaCha20. CTR is for
			// libraries that have nothing newer.
			Ciphers: []string{
				ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305,
				ssh.CipherAES128CTR, ssh.CipherAES256CTR,
			},
			MACs: []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM},
		},
		MaxAuthTries:  MaxAuthTries,
		ServerVersion: Version,
	}
	for _, key := range identity.HostKeys(host) {
		cfg.AddHostKey(key)
	}
	return cfg
}

// Banner wraps err in an error that an authentication callback returns: the library refuses the client, and
// sends it the message and remedy of err as a banner, which the client shows (RFC 4252 section 5.4).
func Banner(err error) error {
	return &ssh.BannerError{Err: err, Message: Message(err, "\r\n")}
}

// Message returns the message and, in a second line, the remedy of err, in the form in which tsh prints
// errors. Each line ends with newline.
func Message(err error, newline string) string {
	out := "threshold: error: " + Clean(fault.Message(err)) + newline
	if hint := fault.Remedy(err); hint != "" {
		out += "threshold: hint: " + Clean(hint) + newline
	}
	return out
}

// Clean replaces control characters by question marks. A terminal would obey them, and a message may contain
// names that somebody else chose.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
