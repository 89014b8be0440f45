package mux

import (
	"errors"
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

// maxHelloBytes bounds a ClientHello, records and all. Those of browsers and of ours, with post-quantum keys
// and a ticket, are 0.3 to 2 kB.
const maxHelloBytes = 16 << 10

// TLS numbers (RFC 8446 sections 4, 5.1; RFC 7301).
const (
	recordHandshake    = 22
	recordHeaderLen    = 5
	maxRecord          = 1 << 14
	handshakeHeaderLen = 4
	typeClientHello    = 1
	extensionALPN      = 16
	ownPrefix          = "threshold-"
	// challengeProtocol is what an ACME authority offers, alone (RFC 8737 section 3).
	challengeProtocol = "acme-tls/1"
	maxHelloFragment  = 64 // records that one ClientHello may be cut into
)

var (
	errIncomplete     = errors.New("the ClientHello is not whole yet")
	errNotClientHello = errors.New("not a TLS ClientHello")
	errHelloTooLong   = errors.New("the ClientHello is too long")
)

// helloProtocols returns the ALPN names of the ClientHello at the start of b, nil when it names none. It
// gives errIncomplete while b is only the beginning of one.
func helloProtocols(b []byte) ([]string, error) {
	msg, err := helloBody(b)
	if err != nil {
		return nil, err
	}
	var random, session, suites, compression, extensions cryptobyte.String
	s := cryptobyte.String(msg)
	var version uint16
	if !s.ReadUint16(&version) || !s.ReadBytes((*[]byte)(&random), 32) || !s.ReadUint8LengthPrefixed(&session) ||
		!s.ReadUint16LengthPrefixed(&suites) ||
		!s.ReadUint8LengthPrefixed(&compression) {
		return nil, errNotClientHello
	}
	if s.Empty() {
		return nil, nil // extensions may be left out in TLS 1.2
	}
	if !s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return nil, errNotClientHello
	}
	return alpnNames(extensions)
}

// helloBody joins the fragments of the first handshake message and returns its body.
func helloBody(b []byte) ([]byte, error) {
	var msg []byte
	for range maxHelloFragment {
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

// chooseProtocol returns the one protocol of ours that is meant, or "" for the web. A hello that offers one
// of ours beside anything else could end at a service other than the one its sender had in mind, and is
// refused.
func chooseProtocol(offered []string) (string, error) {
	for _, p := range offered {
		if !strings.HasPrefix(strings.ToLower(p), ownPrefix) {
			continue
		}
		if len(offered) != 1 {
			return "", errors.New("several protocols are offered beside " + ownPrefix + "*")
		}
		return p, nil
	}
	if len(offered) == 1 && offered[0] == challengeProtocol {
		return challengeProtocol, nil
	}
	return "", nil
}
