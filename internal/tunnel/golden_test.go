package tunnel

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The golden files are what the first release writes. Every later one must read them.
var (
	goldenWelcome = Welcome{
		V:        1,
		Proxy:    "proxy-1",
		ProxyID:  "ffeeddccbbaa99887766554433221100",
		Nonce:    bytes.Repeat([]byte{7}, nonceBytes),
		Features: wire.Features{"one", "two"},
	}
	goldenHello = Hello{
		V:        1,
		Version:  "v1.0.0",
		Instance: "0123456789abcdef0123456789abcdef",
		Features: wire.Features{"early-requests"},
	}
	goldenAttachment = Attachment{
		V:     1,
		Node:  "00112233445566778899aabbccddeeff",
		Proxy: "proxy-1",
		Nonce: bytes.Repeat([]byte{7}, nonceBytes),
		Time:  time.Date(2026, 12, 1, 10, 0, 0, 0, time.UTC),
	}
	goldenResult = greetingResult{V: 1, Fault: &fault.Error{
		Kind:   fault.Denied,
		Code:   "attachment-invalid",
		Msg:    "the attachment is not signed by this node for this proxy and tunnel",
		Remedy: "restart the node",
	}}
	goldenRequest = repeatRequest{V: 1, Pieces: []string{"roles", "settings"}}
)

func goldenFile(name string) string { return filepath.Join("testdata", name) }

func readGolden(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(goldenFile(name))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSpace(b)
}

func writeGolden(t *testing.T, name string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(goldenFile(name), append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// updateGolden writes the golden files, with a new key of the node.
func updateGolden(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	hello := goldenHello
	if hello.Attachment, err = SignAttachment(key, goldenAttachment); err != nil {
		t.Fatal(err)
	}
	writeGolden(t, "hello.json", hello)
	writeGolden(t, "node-key.json", public)
	writeGolden(t, "welcome.json", goldenWelcome)
	writeGolden(t, "result.json", goldenResult)
	writeGolden(t, "header.json", validHeader)
	writeGolden(t, "rules-request.json", goldenRequest)
}

// checkGolden reads a golden message, the same with a field and a feature of a later release, and the same in
// forms that must be refused.
func checkGolden[T any](t *testing.T, name string, m message[T], want T) {
	t.Helper()
	body := string(readGolden(t, name))
	begin := func(fields string) []byte { return []byte(strings.Replace(body, `{"v":1`, "{"+fields, 1)) }
	for what, b := range map[string][]byte{
		"as it is":                 []byte(body),
		"with a later field":       begin(`"v":1,"later":{"is":["ignored"]}`),
		"with a known critical":    begin(`"v":1,"critical":["v"]`),
		"with an empty list of it": begin(`"v":1,"critical":[]`),
	} {
		got, err := m.decode(b)
		if reflect.ValueOf(&got).Elem().FieldByName("Critical").SetZero(); err != nil ||
			!reflect.DeepEqual(got, want) {
			t.Errorf("%s %s: got %+v, %v, want %+v", name, what, got, err, want)
		}
	}
	for says, b := range map[string][]byte{
		"is of version 2, this program reads 1 to 1": begin(`"v":2,"later":true`),
		"is of version 0":                 begin(`"later":true`),
		`does not know the field "later"`: begin(`"v":1,"critical":["later"],"later":true`),
	} {
		_, err := m.decode(b)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), says) ||
			fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want an error that says %q, with a remedy", name, err, says)
		}
	}
}

// This test is not parallel: with -update, others read the files after it.
func TestGoldenMessagesAreRead(t *testing.T) {
	if *update {
		updateGolden(t)
	}
	var hello Hello
	if err := json.Unmarshal(readGolden(t, "hello.json"), &hello); err != nil {
		t.Fatal(err)
	}
	want := goldenHello
	want.Attachment = hello.Attachment
	checkGolden(t, "hello.json", helloMessage, want)
	checkGolden(t, "welcome.json", welcomeMessage, goldenWelcome)
	checkGolden(t, "result.json", resultMessage, goldenResult)
	checkGolden(t, "header.json", headerMessage, validHeader)
	checkGolden(t, "rules-request.json", repeatMessage, goldenRequest)
}

// goldenHelloOf returns the golden greeting of the node, with its certificate's key.
func goldenHelloOf(t *testing.T) (Hello, identity.Peer) {
	t.Helper()
	var hello Hello
	if err := json.Unmarshal(readGolden(t, "hello.json"), &hello); err != nil {
		t.Fatal(err)
	}
	var public []byte
	if err := json.Unmarshal(readGolden(t, "node-key.json"), &public); err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	node := identity.Peer{Cert: &x509.Certificate{PublicKey: key}}
	node.ID = goldenAttachment.Node
	return hello, node
}

func TestGoldenAttachmentIsAccepted(t *testing.T) {
	t.Parallel()
	hello, node := goldenHelloOf(t)
	if refusal := hello.check(node, goldenWelcome, goldenAttachment.Time); refusal != nil {
		t.Errorf("got %v, want the golden greeting accepted", refusal)
	}
	got, err := hello.Attachment.Verify(node.Cert.PublicKey)
	if err != nil || !reflect.DeepEqual(got, goldenAttachment) {
		t.Errorf("got %+v, %v, want %+v", got, err, goldenAttachment)
	}
}

// An attachment may have fields of a later release. With a critical one that the proxy does not know, the
// node is told that the proxy is too old.
func TestAttachmentsOfALaterRelease(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	node := identity.Peer{Cert: &x509.Certificate{PublicKey: key.Public()}}
	node.ID = goldenAttachment.Node
	for begin, says := range map[string]string{
		`"v":1,"later":true`:                      "",
		`"v":1,"critical":["later"],"later":true`: `does not know the field "later"`,
		`"v":2,"later":true`:                      "is of version 2, this program reads 1 to 1",
	} {
		payload, err := json.Marshal(goldenAttachment)
		if err != nil {
			t.Fatal(err)
		}
		hello := goldenHello
		hello.Attachment.Payload = []byte(strings.Replace(string(payload), `"v":1`, begin, 1))
		sum := attachmentDigest(hello.Attachment.Payload)
		if hello.Attachment.Sig, err = key.Sign(rand.Reader, sum[:sha256.Size], crypto.SHA256); err != nil {
			t.Fatal(err)
		}
		refusal := hello.check(node, goldenWelcome, goldenAttachment.Time)
		switch {
		case says == "" && refusal != nil:
			t.Errorf("%s: got %v, want it accepted", begin, refusal)
		case says != "" && (refusal == nil || refusal.Kind != fault.Invalid ||
			!strings.Contains(refusal.Msg, says) || refusal.Remedy == ""):
			t.Errorf("%s: got %v, want a fault that says %q, with a remedy", begin, refusal, says)
		}
	}
}
