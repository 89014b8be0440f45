package authrpc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/prefixconn"
	"github.com/threshold-access/threshold/internal/wire"
)

// ForwardedFrom is a client's address, signed by the proxy that passes the client's connection on to the auth
// service. The proxy cannot open that connection, which is TLS between client and auth service, so it sends
// this message in front of it.
//
// The signature also covers the first bytes of the client, which are the beginning of its TLS ClientHello.
// They contain a random number that differs in each handshake. So whoever copies the message cannot use it
// in front of another connection.
//
// On the wire: the byte 0xF1, with which no TLS record begins; two bytes of length (big endian); JSON of that
// length, which has this structure and the signature; then the client's bytes, of which the first HelloBytes
// are signed too.
type ForwardedFrom struct {
	V          int                `json:"v"`
	Critical   wire.Critical      `json:"critical,omitempty"` // fields of this structure
	ProxyID    identity.MachineID `json:"proxy"`
	Addr       netip.AddrPort     `json:"from"`
	HelloBytes int                `json:"hello"` // how many of the client's bytes are signed, at least 1

	payload []byte // the JSON of this structure, as it was signed
	sig     []byte
	hello   []byte // the client's first HelloBytes bytes, which follow the message
}

// signedForwardedFrom is the message: the JSON of a ForwardedFrom, and a signature by the proxy's service key
// (ECDSA P-256 over SHA-256). It covers the bytes of the payload, so that fields of a later release are
// signed too.
type signedForwardedFrom struct {
	Payload []byte `json:"payload"`
	Sig     []byte `json:"sig"`
}

const (
	forwardedMark     = 0xF1
	forwardedVersion  = 1
	maxForwardedBytes = 2 << 10  // of the message's JSON
	maxHelloBytes     = 64 << 10 // as much as a proxy reads of a ClientHello
)

var forwardedFields = wire.Fields(ForwardedFrom{})

// SignForwardedFrom returns the header that tells the auth service the client's address, which is from: an
// encoded ForwardedFrom, signed with key, the service key of the proxy. The proxy sends the header to the
// auth service, then hello, then all other bytes of the client.
//
// hello is what the proxy has read from the client so far: its ClientHello. The signature covers it, so that
// the header is valid for this connection alone: see ForwardedFrom. hello must have 1 to maxHelloBytes bytes.
func SignForwardedFrom(
	key crypto.Signer,
	proxy identity.MachineID,
	from netip.AddrPort,
	hello []byte,
) ([]byte, error) {
	if len(hello) == 0 || len(hello) > maxHelloBytes {
		const format = "authrpc: cannot sign a forwarded address with a hello of %d bytes"
		return nil, fmt.Errorf(format, len(hello))
	}
	payload, err := json.Marshal(ForwardedFrom{V: 1, ProxyID: proxy, Addr: from, HelloBytes: len(hello)})
	if err != nil {
		return nil, fmt.Errorf("authrpc: encode a forwarded address: %w", err)
	}
	sum := forwardedDigest(payload, hello)
	sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("authrpc: sign a forwarded address: %w", err)
	}
	body, err := json.Marshal(signedForwardedFrom{Payload: payload, Sig: sig})
	if err != nil {
		return nil, fmt.Errorf("authrpc: encode a forwarded address: %w", err)
	}
	// The length fits into 16 bits and is below maxForwardedBytes: an id, an address, a number and a
	// signature take some 400 bytes.
	header := binary.BigEndian.AppendUint16([]byte{forwardedMark}, uint16(len(body)))
	return append(header, body...), nil
}

// forwardedDigest returns the digest that the proxy signs.
func forwardedDigest(payload, hello []byte) [sha256.Size]byte {
	return digest("threshold forwarded address v1", payload, hello)
}

// Verify reports whether key signed this message for the connection that ReadForwardedFrom read it from. key
// is the service key that the auth service has on record for the proxy ProxyID.
func (f ForwardedFrom) Verify(key crypto.PublicKey) bool {
	sum := forwardedDigest(f.payload, f.hello)
	pub, ok := key.(*ecdsa.PublicKey)
	return ok && ecdsa.VerifyASN1(pub, sum[:], f.sig)
}

// ReadForwardedFrom reads the message at the beginning of conn, if there is one. It returns the message and a
// connection that begins with the client's own bytes. A client that connects directly sends no message; then
// the message is nil, without an error.
//
// The message is not verified: the caller must call Verify before it uses the address. The caller also sets a
// read deadline beforehand, because a client may send nothing. After an error the returned connection is
// conn, which the caller closes.
func ReadForwardedFrom(conn net.Conn) (net.Conn, *ForwardedFrom, error) {
	var head [3]byte // the mark, then the length of the JSON
	if _, err := io.ReadFull(conn, head[:1]); err != nil {
		return conn, nil, err
	}
	if head[0] != forwardedMark { // a direct client, whose first byte this is
		return prefixconn.New(conn, head[:1]), nil, nil
	}
	if _, err := io.ReadFull(conn, head[1:]); err != nil {
		return conn, nil, fmt.Errorf("authrpc: read a forwarded address: %w", err)
	}
	n := binary.BigEndian.Uint16(head[1:])
	if n > maxForwardedBytes {
		return conn, nil, fmt.Errorf(
			"authrpc: a forwarded address of %d bytes is larger than %d", n, maxForwardedBytes)
	}
	message, err := readForwardedBody(io.LimitReader(conn, int64(n)), conn)
	if err != nil {
		return conn, nil, fmt.Errorf("authrpc: read a forwarded address: %w", err)
	}
	return prefixconn.New(conn, message.hello), message, nil
}

// readForwardedBody reads the JSON of a message from body until io.EOF, and then the client's signed bytes
// from rest.
func readForwardedBody(body, rest io.Reader) (*ForwardedFrom, error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	var signed signedForwardedFrom
	if err := json.Unmarshal(b, &signed); err != nil {
		return nil, err
	}
	message := ForwardedFrom{payload: signed.Payload, sig: signed.Sig}
	err = wire.Unmarshal("the proxy's message", signed.Payload, &message, forwardedVersion, forwardedFields)
	if err != nil {
		return nil, err
	}
	if message.HelloBytes < 1 || message.HelloBytes > maxHelloBytes || !message.Addr.IsValid() {
		return nil, errors.New("it has no address or no hello")
	}
	message.hello = make([]byte, message.HelloBytes)
	_, err = io.ReadFull(rest, message.hello)
	return &message, err
}
