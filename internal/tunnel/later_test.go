package tunnel

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel/mux"
)

// These tests are this release against a later one, whose messages have a field more, and which also sends
// frames that this release does not know.

const laterKind frameKind = 200

// writeLater writes v with more fields at its beginning.
func writeLater(w io.Writer, kind frameKind, v any, fields string) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	body = []byte(strings.Replace(string(body), `{"v":1`, `{"v":1,`+fields, 1))
	return writeFrame(w, kind, body)
}

const (
	laterField    = `"later":{"is":["ignored"]}`
	laterCritical = `"critical":["later"],"later":true`
)

// laterMachines returns a node with its key, as a proxy has verified it.
func laterMachines(t *testing.T) (Node, identity.Peer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	peer := identity.Peer{Cert: &x509.Certificate{PublicKey: key.Public()}}
	peer.ID = goldenAttachment.Node
	return Node{
		ID:       peer.ID,
		Key:      key,
		Instance: identity.NewInstanceID(),
		Services: []Service{SSH},
		Now:      time.Now,
	}, peer
}

// laterNode greets the proxy at the other end of conn as a node of a later release, with fields in its
// greeting. It returns the control stream, and the fault by which the proxy refuses.
func laterNode(
	s *mux.Session, node Node, fields string,
) (control *mux.Stream, refusal *fault.Error, err error) {
	if control, err = s.Open(); err != nil {
		return nil, nil, err
	}
	welcome, err := welcomeMessage.read(control)
	if err != nil {
		return nil, nil, err
	}
	hello := Hello{V: 1, Instance: node.Instance}
	hello.Attachment, err = SignAttachment(node.Key, Attachment{
		Node: node.ID, Proxy: welcome.Proxy, Nonce: welcome.Nonce, Time: time.Now(),
	})
	if err == nil {
		err = writeLater(control, frameHello, hello, fields)
	}
	if err != nil {
		return nil, nil, err
	}
	result, err := resultMessage.read(control)
	return control, result.Fault, err
}

func TestANodeOfALaterRelease(t *testing.T) {
	t.Parallel()
	for fields, says := range map[string]string{
		laterField:    "",
		laterCritical: `does not know the field "later"`,
	} {
		node, peer := laterMachines(t)
		near, far := net.Pipe()
		session := mux.New(far, muxConfig(true))
		defer session.Close()
		greeted := make(chan *fault.Error, 1)
		go func() {
			control, refusal, err := laterNode(session, node, fields)
			if err != nil {
				t.Error(err)
			} else if refusal == nil {
				_ = writeFrame(control, laterKind, []byte("of a later release"))
			}
			greeted <- refusal
			if refusal != nil {
				session.Close()
			}
		}()
		attached, err := Accept(t.Context(), near, peer, Proxy{ID: peer.ID, Name: "proxy-1", Now: time.Now})
		refusal := <-greeted
		if says != "" {
			if err == nil || refusal == nil || refusal.Kind != fault.Invalid || refusal.Remedy == "" ||
				!strings.Contains(refusal.Msg, says) {
				t.Errorf("got %v, and told the node %v, want a refusal that says %q", err, refusal, says)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer attached.Close()
		c, err := attached.Open(t.Context(), validHeader)
		if err != nil {
			t.Fatal(err)
		}
		s, err := session.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readHeader(s); err != nil {
			t.Errorf("got %v, want a header", err)
		}
		c.Close()
	}
}

// laterProxy greets the node at the other end of the session as a proxy of a later release.
func laterProxy(s *mux.Session, fields string) (control *mux.Stream, err error) {
	if control, err = s.Accept(context.Background()); err != nil {
		return nil, err
	}
	if err := writeLater(control, frameWelcome, goldenWelcome, fields); err != nil {
		return nil, err
	}
	if _, err := helloMessage.read(control); err != nil {
		return nil, err
	}
	return control, writeLater(control, frameResult, greetingResult{V: 1}, fields)
}

func TestAProxyOfALaterRelease(t *testing.T) {
	t.Parallel()
	for fields, says := range map[string]string{
		laterField:    "",
		laterCritical: `does not know the field "later"`,
	} {
		node, _ := laterMachines(t)
		near, far := net.Pipe()
		session := mux.New(near, muxConfig(false))
		defer session.Close()
		go func() {
			control, err := laterProxy(session, fields)
			if err != nil {
				return // the node has left
			}
			_ = writeFrame(control, laterKind, []byte("of a later release"))
			_ = writeFrame(control, frameHead, []byte("head"))
		}()
		uplink, err := Connect(t.Context(), far, node)
		if says != "" {
			if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), says) ||
				fault.Remedy(err) == "" {
				t.Errorf("got %v, want an error that says %q, with a remedy", err, says)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer uplink.Close()
		if rules := <-uplink.Rules(); string(rules.Head) != "head" {
			t.Errorf("got %+v, want the head behind a frame that is not known", rules)
		}
		refused, err := session.Open()
		if err != nil {
			t.Fatal(err)
		}
		if err := writeLater(refused, frameHeader, validHeader, laterCritical); err != nil {
			t.Fatal(err)
		}
		if _, err := refused.Read(make([]byte, 1)); err != error(mux.ResetError{Code: mux.Unsupported}) {
			t.Errorf("got %v for a header that is too new, want it unsupported", err)
		}
		s, err := session.Open()
		if err != nil {
			t.Fatal(err)
		}
		if err := writeLater(s, frameHeader, validHeader, laterField); err != nil {
			t.Fatal(err)
		}
		if _, h, err := uplink.Accept(); err != nil || h.Connection != validHeader.Connection {
			t.Errorf("got %+v, %v, want the stream with the header", h, err)
		}
	}
}

// The bytes of an acknowledgement on the control stream, as the first release sends them.
func TestGoldenAcknowledgementFrame(t *testing.T) {
	t.Parallel()
	const golden = "\x08\x00\x00\x00\x0c{\"signed\":1}"
	node, peer := laterMachines(t)
	near, far := net.Pipe()
	session := mux.New(far, muxConfig(true))
	defer session.Close()
	go func() {
		control, _, err := laterNode(session, node, laterField)
		if err == nil {
			_, err = control.Write([]byte(golden))
		}
		if err != nil {
			t.Error(err)
		}
	}()
	attached, err := Accept(t.Context(), near, peer, Proxy{ID: peer.ID, Name: "proxy-1", Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer attached.Close()
	if got := string(<-attached.Acknowledged()); got != `{"signed":1}` {
		t.Errorf("got %q, want what the node signed", got)
	}
}
