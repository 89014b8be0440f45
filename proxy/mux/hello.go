package mux

import (
	"errors"
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

// maxHelloBytes bounds a ClientHello with its record headers. A ClientHello of a browser or of our own
// programs, with post-quantum keys and a session ticket, has 0.3 to 2 kB.
const maxHelloBytes = 16 << 10

// TLS numbers (RFC 8446 sections 4, 5.1; RFC 7301).
const (
	recordHandshake    = 22
	recordHeaderLen    = 5
	maxRecord          = 1 << 14
	handshakeHeaderLen = 4
	typeClientHello    = 1
	extensionALPN      = 16
)

const (
	// ownPrefix begins the ALPN names of our own protocols.
	ownPrefix = "threshold-"
	// challengeProtocol is the one ALPN name that an ACME authority offers (RFC 8737 section 3).
	challengeProtocol = "acme-tls/1"
	// maxHelloFragments is how many records a ClientHello may be split into.
	maxHelloFragments = 64
)

var (
	errIncomplete     = errors.New("more bytes are needed to tell the protocol")
	errNotClientHello = errors.New("not a valid TLS ClientHello")
	errHelloTooLong   = errors.New("the ClientHello is too long")
)

// helloProtocols returns the ALPN names in the ClientHello at the start of b, or nil when it has none. It
// returns errIncomplete while b is a proper prefix of a ClientHello.
func helloProtocols(b []byte) ([]string, error) {
	msg, err := helloBody(b)
	if err != nil {
		return nil, err
	}
	var random, session, suites, compression, extensions cryptobyte.String
	s := cryptobyte.String(msg)
	var version uint16
	if !s.ReadUint16(&version) ||
		!s.ReadBytes((*[]byte)(&random), 32) ||
		!s.ReadUint8LengthPrefixed(&session) ||
		!s.ReadUint16LengthPrefixed(&suites) ||
		!s.ReadUint8LengthPrefixed(&compression) {
		return nil, errNotClientHello
	}
	if s.Empty() {
		return nil, nil // TLS 1.2 allows a ClientHello without extensions
	}
	if !s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return nil, errNotClientHello
	}
	return alpnNames(extensions)
}

// helloBody returns the body of the first handshake message, which may be split over several records. The
// message must be a ClientHello.
func helloBody(b []byte) ([]byte, error) {
	var msg []byte
	for range maxHelloFragments {
		if len(b) < recordHeaderLen {
			return nil, errIncomplete
		}
		n := int(b[3])<<8 | int(b[4])
		if b[0] != recordHandshake || b[1] != 3 || n == 0 || n > maxRecord {
			return nil, errNotClientHello
		}
		rest := b[recordHeaderLen:]
		msg = append(msg, rest[:min(n, len(rest))]...)
		if len(msg) >= handshakeHeaderLen {
			size := int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3])
			if msg[0] != typeClientHello {
				return nil, errNotClientHello
			}
			if size > maxHelloBytes {
				return nil, errHelloTooLong
			}
			if len(msg) >= handshakeHeaderLen+size {
				return msg[handshakeHeaderLen : handshakeHeaderLen+size], nil
			}
		}
		if len(rest) < n {
			return nil, errIncomplete
		}
		b = rest[n:]
	}
	return nil, errNotClientHello
}

// alpnNames returns the names in the ALPN extension (RFC 7301 section 3.1). A second ALPN extension, an
// empty list or an empty name is an error.
func alpnNames(extensions cryptobyte.String) (out []string, err error) {
	seen := false
	for !extensions.Empty() {
		var kind uint16
		var body, list cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&body) {
			return nil, errNotClientHello
		}
		if kind != extensionALPN {
			continue
		}
		if seen || !body.ReadUint16LengthPrefixed(&list) || list.Empty() || !body.Empty() {
			return nil, errNotClientHello
		}
		seen = true
		for !list.Empty() {
			var name cryptobyte.String
			if !list.ReadUint8LengthPrefixed(&name) || name.Empty() {
				return nil, errNotClientHello
			}
			out = append(out, string(name))
		}
	}
	return out, nil
}

// chooseProtocol returns the threshold-* name or the ACME name that a client offers alone, and "" for the
// web. A client that offers a threshold-* name together with any other is refused: it could reach another
// server than the one it means.
func chooseProtocol(offered []string) (string, error) {
	for _, p := range offered {
		if !strings.HasPrefix(strings.ToLower(p), ownPrefix) {
			continue
		}
		if len(offered) != 1 {
			return "", errors.New("the client offers a " + ownPrefix + "* protocol together with others")
		}
		return p, nil
	}
	if len(offered) == 1 && offered[0] == challengeProtocol {
		return challengeProtocol, nil
	}
	return "", nil
}
