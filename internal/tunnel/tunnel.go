// Package tunnel answers: how do a node and a proxy communicate?
//
// A node dials a proxy (ALPN threshold-tunnel, service certificates both ways), and a multiplexer runs over
// that TLS connection. The node opens the first stream, the control stream, and both sides greet. Then the
// proxy pushes the signed rules over it and opens one stream for each session. A session stream begins with
// a Header and leads to the node's own session service and nothing else: there is no field for an address
// to connect to.
package tunnel

import (
	"crypto"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// Version is the protocol version in greetings and headers.
const Version = 1

// Bounds of what either side reads.
const (
	MaxHeaderBytes = 4 << 10
	MaxFrameBytes  = 9 << 20 // a control frame; holds a piece of the rules
	// Window is how much of a stream may be in flight. Distant nodes need it; 4 MiB gains nothing more
	// (measured).
	Window = 1 << 20
)

// Welcome is the proxy's first message on the control stream.
type Welcome struct {
	V     int    `json:"v"`
	Proxy string `json:"proxy"` // the proxy's name
	Nonce []byte `json:"nonce"` // 32 random bytes that the node's attachment must sign
}

// Attachment says that the node is attached to the proxy at this time. The node signs it, and proxies pass it
// to auth as evidence.
type Attachment struct {
	V     int                `json:"v"`
	Node  identity.MachineID `json:"node"`
	Proxy string             `json:"proxy"`
	Nonce []byte             `json:"nonce"`
	Time  time.Time          `json:"time"`
}

// Hello is the node's answer to Welcome.
type Hello struct {
	V          int              `json:"v"`
	Version    string           `json:"version"` // the agent's release, for listings
	Attachment SignedAttachment `json:"attachment"`
}

// SignedAttachment is an attachment and the signature of the node's service key (ECDSA P-256 over SHA-256).
type SignedAttachment struct {
	Payload []byte `json:"payload"`
	Sig     []byte `json:"sig"`
}

// Header begins every session stream.
type Header struct {
	V        int    `json:"v"`
	From     string `json:"from"` // the client's address and port as the proxy saw them
	Protocol string `json:"by"`   // how the client connects to the proxy: "dial" or "ssh"
}

// SignAttachment encodes an attachment and signs it with key, the node's service key (ECDSA P-256). It sets
// the attachment's version.
func SignAttachment(key crypto.Signer, a Attachment) (SignedAttachment, error) {
	a.V = Version
	payload, err := json.Marshal(a)
	if err != nil {
		return SignedAttachment{}, fmt.Errorf("tunnel: encode attachment: %w", err)
	}
	sum := attachmentDigest(payload)
	sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return SignedAttachment{}, fmt.Errorf("tunnel: sign attachment: %w", err)
	}
	return SignedAttachment{Payload: payload, Sig: sig}, nil
}
