package authrpc_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

var update = flag.Bool("update", false, "write the golden files anew")

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
		"no payload":              forwardedMessage("", nil),
		"no address":              append(forwardedMessage(`{"v":1,"hello":1}`, nil), 'x'),
		"an empty hello":          forwardedMessage(`{"v":1,"from":"192.0.2.7:22"}`, nil),
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

// forwardedMessage is a message with this payload and signature, as it is on the wire.
func forwardedMessage(payload string, sig []byte) []byte {
	body, err := json.Marshal(map[string][]byte{"payload": []byte(payload), "sig": sig})
	if err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint16([]byte{0xF1}, uint16(len(body))), body...)
}

// The golden file is a whole message, as the first release writes it, with its signer and the client's bytes.
// Its README says how it is made.
func TestGoldenForwardedFromIsRead(t *testing.T) {
	t.Parallel()
	const name = "testdata/forwarded-from.json"
	if *update {
		key, message := signForwarded(t, "\x16hello")
		public, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(goldenForwarded{Key: public, Bytes: append(message, "\x16hello"...)})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var golden goldenForwarded
	if err := json.Unmarshal(b, &golden); err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKIXPublicKey(golden.Key)
	if err != nil {
		t.Fatal(err)
	}
	_, got, err := authrpc.ReadForwardedFrom(bytesConn(golden.Bytes))
	if err != nil || got.V != 1 || got.ProxyID != proxyID || got.Addr.String() != clientAddr ||
		!got.Verify(key) {
		t.Errorf("got %+v, %v, want the golden message from %s", got, err, clientAddr)
	}
}

type goldenForwarded struct {
	Key   []byte `json:"key"`   // SPKI
	Bytes []byte `json:"bytes"` // the message and the client's first bytes
}

// A message may have fields of a later release, which are signed too. One with a version or a critical field
// that is not known is refused.
func TestForwardedFromOfALaterRelease(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const rest = `,"proxy":"0123456789abcdef0123456789abcdef","from":"192.0.2.7:40022","hello":6}`
	sign := func(payload string) []byte {
		sum := authrpc.ForwardedDigestForTest([]byte(payload), []byte("\x16hello"))
		sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	read := func(payload string, sig []byte) (*authrpc.ForwardedFrom, error) {
		b := append(forwardedMessage(payload, sig), "\x16hello"...)
		_, got, err := authrpc.ReadForwardedFrom(bytesConn(b))
		return got, err
	}
	later := `{"v":1,"later":true` + rest
	got, err := read(later, sign(later))
	if err != nil || !got.Verify(key.Public()) || got.Addr.String() != clientAddr {
		t.Errorf("got %+v, %v, want it read without the field", got, err)
	}
	got, err = read(`{"v":1,"later":false`+rest, sign(later))
	if err != nil || got.Verify(key.Public()) {
		t.Errorf("got %+v, %v, want a changed field to break the signature", got, err)
	}
	for payload, says := range map[string]string{
		`{"v":2` + rest: "is of version 2, this program reads 1 to 1",
		`{"v":1,"critical":["later"],"later":true` + rest: `does not know the field "later"`,
	} {
		_, err := read(payload, sign(payload))
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), says) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want an error that says %q, with a remedy", payload, err, says)
		}
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
