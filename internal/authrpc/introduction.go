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

// Introduction is a proxy's word, in front of a connection that it passes through to auth unopened, from where that comes. It is signed
// together with the client's first bytes, whose random makes each handshake one of its own: it introduces no other connection.
//
// On the wire: the byte 0xF1, which begins no TLS record, two bytes of length (big endian), JSON of that length; then Hello bytes of the
// client's, and what follows of them.
type Introduction struct {
	Proxy identity.NodeID `json:"proxy"`
	From  netip.AddrPort  `json:"from"`
	Hello int             `json:"hello"` // how many of the client's bytes are signed with it
	Sig   []byte          `json:"sig"`   // ECDSA, SHA-256, by the proxy's service key

	hello []byte
}

const (
	introductionMark = 0xF1
	maxIntroduction  = 1 << 10
	maxHello         = 64 << 10 // what proxies take for a ClientHello
)

// Introduce returns the proxy's word for a client whose first bytes are hello.
func Introduce(key crypto.Signer, proxy identity.NodeID, from netip.AddrPort, hello []byte) ([]byte, error) {
	if len(hello) == 0 || len(hello) > maxHello {
		return nil, fmt.Errorf("authrpc: a hello of %d bytes cannot be introduced", len(hello))
	}
	i := Introduction{Proxy: proxy, From: from, Hello: len(hello), hello: hello}
	sum := i.digest()
	var err error
	if i.Sig, err = key.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		return nil, fmt.Errorf("authrpc: sign an introduction: %w", err)
	}
	body, err := json.Marshal(i)
	if err != nil {
		return nil, fmt.Errorf("authrpc: encode an introduction: %w", err)
	}
	return append(binary.BigEndian.AppendUint16([]byte{introductionMark}, uint16(len(body))), body...), nil
}

func (i Introduction) digest() [sha256.Size]byte {
	return digest("threshold introduction v1", []byte(i.Proxy), []byte(i.From.String()), i.hello)
}

// Verify reports whether the proxy with the service key said so of this connection.
func (i Introduction) Verify(key crypto.PublicKey) bool {
	sum := i.digest()
	pub, ok := key.(*ecdsa.PublicKey)
	return ok && ecdsa.VerifyASN1(pub, sum[:], i.Sig)
}

// ReadIntroduction looks for an introduction at the beginning of conn, and returns the connection without it. There is none, and no
// error, when the client is its own. The caller sets the deadline, and verifies.
func ReadIntroduction(conn net.Conn) (net.Conn, *Introduction, error) {
	var head [3]byte
	if _, err := io.ReadFull(conn, head[:1]); err != nil {
		return conn, nil, err
	}
	if head[0] != introductionMark {
		return &begun{conn, bytes.NewReader(head[:1])}, nil, nil
	}
	if _, err := io.ReadFull(conn, head[1:]); err != nil {
		return conn, nil, fmt.Errorf("authrpc: read an introduction: %w", err)
	}
	n := binary.BigEndian.Uint16(head[1:])
	if n > maxIntroduction {
		return conn, nil, fmt.Errorf("authrpc: an introduction of %d bytes is larger than %d", n, maxIntroduction)
	}
	i, err := readIntroduction(io.LimitReader(conn, int64(n)), conn)
	if err != nil {
		return conn, nil, fmt.Errorf("authrpc: read an introduction: %w", err)
	}
	return &begun{conn, bytes.NewReader(i.hello)}, i, nil
}

func readIntroduction(body, rest io.Reader) (*Introduction, error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	var i Introduction
	if err := json.Unmarshal(b, &i); err != nil {
		return nil, err
	}
	if i.Hello < 1 || i.Hello > maxHello || !i.From.IsValid() {
		return nil, errors.New("it names no address or no hello")
	}
	i.hello = make([]byte, i.Hello)
	_, err = io.ReadFull(rest, i.hello)
	return &i, err
}

// begun gives again what was read of it.
type begun struct {
	net.Conn
	head *bytes.Reader
}

func (b *begun) Read(p []byte) (int, error) {
	if b.head.Len() > 0 {
		return b.head.Read(p)
	}
	return b.Conn.Read(p)
}

// CloseWrite is the half-close of the connection beneath, where it has one.
func (b *begun) CloseWrite() error {
	if half, ok := b.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return b.Conn.Close()
}
