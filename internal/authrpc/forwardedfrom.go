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
)

// ForwardedFrom is the client's address as a proxy signs it in front of a connection that it passes to the
// auth service unopened. The signature covers the first bytes of the client too. They hold the random of its
// ClientHello, which differs in each handshake, so a copied message fits no other connection.
//
// On the wire: the byte 0xF1, with which no TLS record begins; two bytes of length (big endian); JSON of that
// length; then the client's bytes, of which the first HelloBytes are signed.
type ForwardedFrom struct {
	ProxyID    identity.MachineID `json:"proxy"`
	Addr       netip.AddrPort     `json:"from"`
	HelloBytes int                `json:"hello"` // how many of the client's bytes are signed, at least 1
	Sig        []byte             `json:"sig"`   // ECDSA over SHA-256, by the proxy's service key

	hello []byte // the signed bytes of the client
}

const (
	forwardedMark     = 0xF1
	maxForwardedBytes = 1 << 10  // of the JSON
	maxHelloBytes     = 64 << 10 // as much as a proxy reads of a ClientHello
)

// SignForwardedFrom encodes the message for a client at from whose first bytes are hello. The proxy sends it,
// then hello, then what follows.
func SignForwardedFrom(
	key crypto.Signer,
	proxy identity.MachineID,
	from netip.AddrPort,
	hello []byte,
) ([]byte, error) {
	if len(hello) == 0 || len(hello) > maxHelloBytes {
		return nil, fmt.Errorf(
			"authrpc: cannot sign a forwarded address with a hello of %d bytes",
			len(hello),
		)
	}
	f := ForwardedFrom{ProxyID: proxy, Addr: from, HelloBytes: len(hello), hello: hello}
	sum := f.digest()
	var err error
	if f.Sig, err = key.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		return nil, fmt.Errorf("authrpc: sign a forwarded address: %w", err)
	}
	body, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("authrpc: encode a forwarded address: %w", err)
	}
	return append(binary.BigEndian.AppendUint16([]byte{forwardedMark}, uint16(len(body))), body...), nil
}

// digest is what the proxy signs. The label is part of the protocol and keeps the name that it had first.
func (f ForwardedFrom) digest() [sha256.Size]byte {
	return digest("threshold introduction v1", []byte(f.ProxyID), []byte(f.Addr.String()), f.hello)
}

// Verify reports whether key, the service key of the proxy ProxyID, signed this message for this connection.
func (f ForwardedFrom) Verify(key crypto.PublicKey) bool {
	sum := f.digest()
	pub, ok := key.(*ecdsa.PublicKey)
	return ok && ecdsa.VerifyASN1(pub, sum[:], f.Sig)
}

// ReadForwardedFrom takes the message off the beginning of conn, and returns the connection without it. For a
// client that connects directly there is none: it returns nil and no error. The caller sets the deadline
// before and verifies the message after. When it fails it returns conn as it is.
func ReadForwardedFrom(conn net.Conn) (net.Conn, *ForwardedFrom, error) {
	var head [3]byte
	if _, err := io.ReadFull(conn, head[:1]); err != nil {
		return conn, nil, err
	}
	if head[0] != forwardedMark {
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
	f, err := readForwardedBody(io.LimitReader(conn, int64(n)), conn)
	if err != nil {
		return conn, nil, fmt.Errorf("authrpc: read a forwarded address: %w", err)
	}
	return prefixconn.New(conn, f.hello), f, nil
}

// readForwardedBody reads the JSON from body and the signed bytes of the client from rest.
func readForwardedBody(body, rest io.Reader) (*ForwardedFrom, error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	var f ForwardedFrom
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	if f.HelloBytes < 1 || f.HelloBytes > maxHelloBytes || !f.Addr.IsValid() {
		return nil, errors.New("it has no address or no hello")
	}
	f.hello = make([]byte, f.HelloBytes)
	_, err = io.ReadFull(rest, f.hello)
	return &f, err
}
