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

// helloProtocols returns the ALPN names in the ClientHello at the start of b (RFC 8446 section 4.1.2), or nil
// when it offers none. It returns errIncomplete while b is only the beginning of a ClientHello,
// errHelloTooLong, or errNotClientHello.
func helloProtocols(b []byte) ([]string, error) {
	msg, err := helloBody(b)
	if err != nil {
		return nil, err
	}
	// Only the extensions are used. The fields before them are read to get past them.
	var random, session, suites, compression, extensions cryptobyte.String
	rest := cryptobyte.String(msg)
	var version uint16
	if !rest.ReadUint16(&version) ||
		!rest.ReadBytes((*[]byte)(&random), 32) ||
		!rest.ReadUint8LengthPrefixed(&session) ||
		!rest.ReadUint16LengthPrefixed(&suites) ||
		!rest.ReadUint8LengthPrefixed(&compression) {
		return nil, errNotClientHello
	}
	if rest.Empty() {
		return nil, nil // TLS 1.2 allows a ClientHello without extensions
	}
	if !rest.ReadUint16LengthPrefixed(&extensions) || !rest.Empty() {
		return nil, errNotClientHello
	}
	return alpnNames(extensions)
}

// helloBody returns the body of the ClientHello at the start of b, which are bytes of a TLS connection: it
// takes off the headers of the records, over several of which the message may be split, and the header of the
// message. It returns errIncomplete while b is too short, errHelloTooLong for a message of more than
// maxHelloBytes, and errNotClientHello for anything else than a ClientHello.
func helloBody(b []byte) ([]byte, error) {
	var msg []byte // the handshake message, header included, as far as it is in b
	for range maxHelloFragments {
		if len(b) < recordHeaderLen {
			return nil, errIncomplete
		}
		recordLen := int(b[3])<<8 | int(b[4])
		isHandshake := b[0] == recordHandshake && b[1] == 3 // 3 is the major version of every TLS record
		if !isHandshake || recordLen == 0 || recordLen > maxRecord {
			return nil, errNotClientHello
		}
		rest := b[recordHeaderLen:]
		msg = append(msg, rest[:min(recordLen, len(rest))]...)
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
		if len(rest) < recordLen {
			return nil, errIncomplete
		}
		b = rest[recordLen:] // the next record
	}
	return nil, errNotClientHello
}

// alpnNames returns the names in the ALPN extension (RFC 7301 section 3.1), or nil when there is no such
// extension. A second ALPN extension, an empty list or an empty name is errNotClientHello: crypto/tls or the
// auth service could read such a message in another way than this function.
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

// chooseProtocol returns the protocol to serve, by the ALPN names that a client offers: a threshold-* name or
// the ACME name if the client offers that name alone, else "", which stands for the web. The name returned
// may be one that does not exist. The prefix is compared without regard to case, so that a misspelt name is
// refused and not served as the web.
//
// It returns an error for a threshold-* name together with any other name. The servers behind these names
// check different certificates, and the choice among them must not be left to preferences.
func chooseProtocol(offered []string) (string, error) {
	for _, name := range offered {
		if !strings.HasPrefix(strings.ToLower(name), ownPrefix) {
			continue
		}
		if len(offered) != 1 {
			return "", errors.New("the client offers a " + ownPrefix + "* protocol together with others")
		}
		return name, nil
	}
	if len(offered) == 1 && offered[0] == challengeProtocol {
		return challengeProtocol, nil
	}
	return "", nil
}
