package authrpc_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
)

// bytesConn is a connection on which b arrives and then its end.
func bytesConn(b []byte) net.Conn { return readerConn{Reader: bytes.NewReader(b)} }

type readerConn struct {
	net.Conn
	io.Reader
}

func (c readerConn) Read(b []byte) (int, error) { return c.Reader.Read(b) }

const (
	proxyID    = identity.MachineID("0123456789abcdef0123456789abcdef")
	clientAddr = "192.0.2.7:40022"
)

// signForwarded signs clientAddr for a client whose first bytes are hello, with a new key.
func signForwarded(t testing.TB, hello string) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	message, err := authrpc.SignForwardedFrom(
		key,
		proxyID,
		netip.MustParseAddrPort(clientAddr),
		[]byte(hello),
	)
	if err != nil {
		t.Fatal(err)
	}
	return key, message
}

func TestForwardedFromIsRemovedAndVerifies(t *testing.T) {
	t.Parallel()
	key, message := signForwarded(t, "\x16hello")
	conn, got, err := authrpc.ReadForwardedFrom(bytesConn(append(message, "\x16hello and more"...)))
	if err != nil || got == nil || got.ProxyID != proxyID || got.Addr.String() != clientAddr ||
		!got.Verify(key.Public()) {
		t.Fatalf("got %+v, %v, want it from %s", got, err, clientAddr)
	}
	if rest, err := io.ReadAll(conn); err != nil || string(rest) != "\x16hello and more" {
		t.Errorf("got %q, %v after it, want the client's bytes whole", rest, err)
	}
	if other, _ := signForwarded(t, "\x16hello"); got.Verify(other.Public()) {
		t.Error("got it verified by another proxy's key")
	}
}

func TestADirectConnectionHasNoForwardedFrom(t *testing.T) {
	t.Parallel()
	conn, got, err := authrpc.ReadForwardedFrom(bytesConn([]byte("\x16hello")))
	if err != nil || got != nil {
		t.Fatalf("got %+v, %v, want none", got, err)
	}
	if rest, err := io.ReadAll(conn); err != nil || string(rest) != "\x16hello" {
		t.Errorf("got %q, %v, want the client's bytes whole", rest, err)
	}
}

// A message that was copied fits no other connection: the random of the client is signed with it.
func TestForwardedFromIsForOneConnection(t *testing.T) {
	t.Parallel()
	key, message := signForwarded(t, "\x16hello")
	_, got, err := authrpc.ReadForwardedFrom(bytesConn(append(message, "\x16other"...)))
	if err != nil || got.Verify(key.Public()) {
		t.Errorf("got %v and it verified for another hello, want refused", err)
	}
}

// A message that is cut off, too large or malformed is refused, and so is signing one for no hello.
func TestReadForwardedFromRefuses(t *testing.T) {
	t.Parallel()
	_, message := signForwarded(t, "\x16hello")
	for name, b := range map[string][]byte{
		"nothing":                 nil,
		"half a length":           {0xF1, 0},
		"half a body":             message[:20],
		"half a hello":            append(bytes.Clone(message), '\x16'),
		"a length over the bound": {0xF1, 0xff, 0xff},
		"no JSON":                 {0xF1, 0, 1, 'x'},
		"no address":              append([]byte{0xF1, 0, 11}, `{"hello":1}x`...),
		"an empty hello":          append([]byte{0xF1, 0, 23}, `{"from":"192.0.2.7:22"}`...),
	} {
		if _, got, err := authrpc.ReadForwardedFrom(bytesConn(b)); err == nil {
			t.Errorf("%s: got %+v, want refused", name, got)
		}
	}
	key, _ := signForwarded(t, "x")
	if _, err := authrpc.SignForwardedFrom(key, proxyID, netip.AddrPort{}, nil); err == nil {
		t.Error("got a message without a hello")
	}
}

func FuzzReadForwardedFrom(f *testing.F) {
	_, message := signForwarded(f, "\x16hello")
	f.Add(append(message, "\x16hello"...))
	f.Add([]byte("\x16\x03\x01"))
	f.Add([]byte{0xF1, 0, 2, '{', '}'})
	f.Fuzz(func(t *testing.T, b []byte) {
		conn, got, err := authrpc.ReadForwardedFrom(bytesConn(b))
		if err != nil {
			return
		}
		rest, err := io.ReadAll(conn)
		if err != nil || got == nil && !bytes.Equal(rest, b) || !bytes.HasSuffix(b, rest) {
			t.Errorf("got %q, %v of %q, want the client's bytes", rest, err, b)
		}
	})
}
