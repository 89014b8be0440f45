package authrpc

import (
	"bytes"
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
)

// ForwardedFrom is a proxy's word, in front of a connection that it passes through to auth unopened, from
// where that comes. It is signed together with the client's first bytes, whose random makes each handshake
// one of its own: it introduces no other connection.
//
// On the wire: the byte 0xF1, which begins no TLS record, two bytes of length (big endian), JSON of that
// length; then Hello bytes of the client's, and what follows of them.
type ForwardedFrom struct {
	ProxyID    identity.MachineID `json:"proxy"`
	Addr       netip.AddrPort     `json:"from"`
	HelloBytes int                `json:"hello"` // how many of the client's bytes are signed with it
	Sig        []byte             `json:"sig"`   // ECDSA, SHA-256, by the proxy's service key

	hello []byte
}

const (
	forwardedMark     = 0xF1
	maxForwardedBytes = 1 << 10
	maxHelloBytes     = 64 << 10 // what proxies take for a ClientHello
)

// SignForwardedFrom returns the proxy's word for a client whose first bytes are hello.
func SignForwardedFrom(
	key crypto.Signer,
	proxy identity.MachineID,
	from netip.AddrPort,
	hello []byte,
) ([]byte, error) {
	if len(hello) == 0 || len(hello) > maxHelloBytes {
		return nil, fmt.Errorf("authrpc: a hello of %d bytes cannot be introduced", len(hello))
	}
	i := ForwardedFrom{ProxyID: proxy, Addr: from, HelloBytes: len(hello), hello: hello}
	sum := i.digest()
	var err error
	if i.Sig, err = key.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		return nil, fmt.Errorf("authrpc: sign an introduction: %w", err)
	}
	body, err := json.Marshal(i)
	if err != nil {
		return nil, fmt.Errorf("authrpc: encode an introduction: %w", err)
	}
	return append(binary.BigEndian.AppendUint16([]byte{forwardedMark}, uint16(len(body))), body...), nil
}

func (i ForwardedFrom) digest() [sha256.Size]byte {
	return digest("threshold introduction v1", []byte(i.ProxyID), []byte(i.Addr.String()), i.hello)
}

// Verify reports whether the proxy with the service key said so of this connection.
func (i ForwardedFrom) Verify(key crypto.PublicKey) bool {
	sum := i.digest()
	pub, ok := key.(*ecdsa.PublicKey)
	return ok && ecdsa.VerifyASN1(pub, sum[:], i.Sig)
}

// ReadForwardedFrom looks for an introduction at the beginning of conn, and returns the connection without
// it. There is none, and no error, when the client is its own. The caller sets the deadline, and verifies.
func ReadForwardedFrom(conn net.Conn) (net.Conn, *ForwardedFrom, error) {
	var head [3]byte
	if _, err := io.ReadFull(conn, head[:1]); err != nil {
		return conn, nil, err
	}
	if head[0] != forwardedMark {
		return &prefixedConn{conn, bytes.NewReader(head[:1])}, nil, nil
	}
	if _, err := io.ReadFull(conn, head[1:]); err != nil {
		return conn, nil, fmt.Errorf("authrpc: read an introduction: %w", err)
	}
	n := binary.BigEndian.Uint16(head[1:])
	if n > maxForwardedBytes {
		return conn, nil, fmt.Errorf(
			"authrpc: an introduction of %d bytes is larger than %d",
			n,
			maxForwardedBytes,
		)
	}
	i, err := readForwardedBody(io.LimitReader(conn, int64(n)), conn)
	if err != nil {
		return conn, nil, fmt.Errorf("authrpc: read an introduction: %w", err)
	}
	return &prefixedConn{conn, bytes.NewReader(i.hello)}, i, nil
}

func readForwardedBody(body, rest io.Reader) (*ForwardedFrom, error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	var i ForwardedFrom
	if err := json.Unmarshal(b, &i); err != nil {
		return nil, err
	}
	if i.HelloBytes < 1 || i.HelloBytes > maxHelloBytes || !i.Addr.IsValid() {
		return nil, errors.New("it names no address or no hello")
	}
	i.hello = make([]byte, i.HelloBytes)
	_, err = io.ReadFull(rest, i.hello)
	return &i, err
}

// prefixedConn gives again what was read of it.
type prefixedConn struct {
	net.Conn
	prefix *bytes.Reader
}

func (b *prefixedConn) Read(p []byte) (int, error) {
	if b.prefix.Len() > 0 {
		return b.prefix.Read(p)
	}
	return b.Conn.Read(p)
}

// CloseWrite is the half-close of the connection beneath, where it has one.
func (b *prefixedConn) CloseWrite() error {
	if half, ok := b.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return b.Conn.Close()
}
