package sshclient_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/testnet"
	"github.com/threshold-access/threshold/tsh/sshclient"
)

// recorder is a connection whose reads are kept.
type recorder struct {
	net.Conn
	mu   sync.Mutex
	read bytes.Buffer
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read.Write(b[:n])
	return n, err
}

// handshakeBytes returns what a server with the host key sends to a client that exchanges keys by kex and
// then ends the connection.
func handshakeBytes(t testing.TB, host ssh.Signer, kex string) []byte {
	t.Helper()
	near, far := testnet.Pipe()
	conn := &recorder{Conn: near}
	cfg := &ssh.ServerConfig{NoClientAuth: true}
	cfg.AddHostKey(host)
	cfg.KeyExchanges = []string{kex}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if server, _, _, err := ssh.NewServerConn(far, cfg); err == nil {
			server.Close()
		}
		far.Close()
	}()
	client, _, _, err := ssh.NewClientConn(conn, "", &ssh.ClientConfig{
		Config:          ssh.Config{KeyExchanges: []string{kex}},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatalf("%s: %v", kex, err)
	}
	client.Close()
	<-served
	conn.mu.Lock()
	defer conn.mu.Unlock()
	return bytes.Clone(conn.read.Bytes())
}

// watch gives the bytes to a HostWatch in pieces of the size, and returns the ids that it found.
func watch(sent []byte, size int, refused error) (ids []identity.MachineID, passed int, err error) {
	w := sshclient.NewHostWatch(func(id identity.MachineID) error {
		ids = append(ids, id)
		return refused
	})
	for passed < len(sent) && err == nil {
		piece := sent[passed:min(passed+size, len(sent))]
		if err = w.Read(piece); err == nil {
			passed += len(piece)
		}
	}
	return ids, passed, err
}

// The machine in the host certificate is found in every kind of key exchange, however the bytes come. The
// packet with the certificate is not passed on whole if the machine is refused.
func TestHostWatchFindsTheMachine(t *testing.T) {
	t.Parallel()
	c := clustertest.NewInMemory(t)
	id := c.Machine(identity.Node, "web-1", nil).ID
	host := c.HostSigner("web-1", "web-1."+clustertest.Name, string(id), string(id)+"."+clustertest.Name)
	for _, kex := range []string{
		ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519, ssh.KeyExchangeECDHP256,
		ssh.KeyExchangeDH14SHA256, ssh.KeyExchangeDHGEXSHA256,
	} {
		sent := handshakeBytes(t, host, kex)
		certificate := bytes.Index(sent, host.PublicKey().Marshal())
		if certificate < 0 {
			t.Fatalf("%s: the handshake has no host certificate", kex)
		}
		const ahead = 5 + 1 + 4 // of the certificate: the packet's head, the message's number, a length
		packet := certificate - ahead
		end := packet + 4 + int(binary.BigEndian.Uint32(sent[packet:]))
		before := append([]byte("a line before the version\r\n"), sent...)
		for _, size := range []int{1, 2, 7, 100, len(sent)} {
			for name, b := range map[string][]byte{"alone": sent, "after a line": before} {
				ids, passed, err := watch(b, size, nil)
				if err != nil || passed != len(b) || len(ids) != 1 || ids[0] != id {
					t.Errorf("%s, %s, by %d: got %v, %d bytes (%v), want the node's id",
						kex, name, size, ids, passed, err)
				}
			}
			locked := errors.New("locked")
			_, passed, err := watch(sent, size, locked)
			if !errors.Is(err, locked) || passed >= end {
				t.Errorf("%s by %d: got %d bytes passed (%v), want less than %d", kex, size, passed, err, end)
			}
		}
	}
}

// A plain host key names no machine: it is for the other program to refuse.
func TestHostWatchOfAPlainKey(t *testing.T) {
	t.Parallel()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sent := handshakeBytes(t, host, ssh.KeyExchangeCurve25519)
	if ids, passed, err := watch(sent, 10, nil); len(ids) != 0 || passed != len(sent) || err != nil {
		t.Errorf("got %v, %d bytes (%v), want everything passed", ids, passed, err)
	}
}

// In bytes that are no handshake nothing can be found, so they are refused.
func TestHostWatchRefusesOtherBytes(t *testing.T) {
	t.Parallel()
	c := clustertest.NewInMemory(t)
	host := c.HostSigner("web-1", strings.Repeat("a", 32))
	sent := handshakeBytes(t, host, ssh.KeyExchangeCurve25519)
	blob := host.PublicKey().Marshal()
	broken := bytes.Clone(blob)
	copy(broken[4+len(ssh.CertAlgoED25519v01):], "\xff\xff\xff\xff") // the length of the nonce
	for name, b := range map[string][]byte{
		"a line without an end":           bytes.Repeat([]byte("x"), 9000),
		"a packet that is too large":      []byte("SSH-2.0-x\r\n\x00\x10\x00\x00\x04"),
		"a packet that is all padding":    []byte("SSH-2.0-x\r\n\x00\x00\x00\x05\x05....."),
		"a certificate that is malformed": bytes.Replace(sent, blob, broken, 1),
	} {
		if _, _, err := watch(b, 100, nil); !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want it refused with a remedy", name, err)
		}
	}
}

func FuzzHostWatch(f *testing.F) {
	c := clustertest.NewInMemory(f)
	f.Add(handshakeBytes(f, c.HostSigner("web-1", strings.Repeat("a", 32)), ssh.KeyExchangeCurve25519), 10)
	f.Add([]byte("SSH-2.0-x\r\n\x00\x00\x00\x06\x04\x1f...."), 1)
	f.Fuzz(func(t *testing.T, sent []byte, size int) {
		whole, _, wholeErr := watch(sent, len(sent), nil)
		ids, _, err := watch(sent, max(1, size), nil)
		if (err == nil) != (wholeErr == nil) || len(ids) != len(whole) {
			t.Errorf("got %v (%v) in pieces, want %v (%v) as at once", ids, err, whole, wholeErr)
		}
	})
}
