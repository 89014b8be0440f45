// Package tunnel answers: how do a node and a proxy communicate?
//
// A node dials a proxy (ALPN threshold-tunnel, service certificates both ways), and a multiplexer runs over
// that TLS connection. The node opens the first stream, the control stream, and both sides greet. Then the
// proxy pushes the signed rules over it and opens one stream for each connection of a client. Such a stream
// begins with a Header, which names a service of the node: there is no field for an address to connect to.
package tunnel

import (
	"crypto"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
)

// Version is the newest version of greetings, headers and attachments.
const Version = 1

// Bounds of what either side reads.
const (
	MaxHeaderBytes = 4 << 10
	MaxFrameBytes  = 9 << 20 // a control frame; holds a piece of the rules
)

// Welcome is the proxy's first message on the control stream.
type Welcome struct {
	V        int                `json:"v"`
	Critical wire.Critical      `json:"critical,omitempty"` // fields of this message
	Proxy    string             `json:"proxy"`              // the proxy's name, as in its certificate
	ProxyID  identity.MachineID `json:"proxy_id"`           // likewise
	Nonce    []byte             `json:"nonce"`              // 32 random bytes that the attachment must have
	Features wire.Features      `json:"features,omitempty"` // what the proxy understands
}

// Attachment says that the node is attached to the proxy at this time. The node signs it, and proxies pass it
// to auth as evidence.
type Attachment struct {
	V        int                `json:"v"`
	Critical wire.Critical      `json:"critical,omitempty"` // fields of this statement
	Node     identity.MachineID `json:"node"`
	Proxy    string             `json:"proxy"`
	Nonce    []byte             `json:"nonce"`
	Time     time.Time          `json:"time"`
}

// Hello is the node's answer to Welcome.
type Hello struct {
	V        int           `json:"v"`
	Critical wire.Critical `json:"critical,omitempty"` // fields of this message
	Version  string        `json:"version"`            // the agent's release, for listings
	// Instance names this run of the agent: two at once under one id are a copied machine.
	Instance   identity.InstanceID `json:"instance"`
	Attachment SignedAttachment    `json:"attachment"`
	// Features is what the node and its SSH server understand. The proxy tells clients.
	Features wire.Features `json:"features,omitempty"`
}

// SignedAttachment is an attachment and the signature of the node's service key (ECDSA P-256 over SHA-256).
type SignedAttachment struct {
	Payload []byte `json:"payload"`
	Sig     []byte `json:"sig"`
}

// Service is the name of what a node serves. It is no address: the node knows what it means.
type Service string

// SSH is the node's own SSH server.
const SSH Service = "ssh"

// Header begins every stream but the control stream.
type Header struct {
	V        int            `json:"v"`
	Critical wire.Critical  `json:"critical,omitempty"` // fields of this header
	Service  Service        `json:"service"`
	From     netip.AddrPort `json:"from"` // the client, as the entry proxy saw it
	Protocol string         `json:"by"`   // how the client connects to the entry proxy: "dial" or "ssh"
	// ProxyID and Proxy are id and name of the entry proxy, which the client came to. Streams may pass
	// through another proxy.
	ProxyID identity.MachineID `json:"proxy_id"`
	Proxy   string             `json:"proxy"`
	// Connection is drawn by the entry proxy.
	Connection identity.ConnectionID `json:"connection"`
	// Features is what the client understands, as it told the proxy.
	Features wire.Features `json:"features,omitempty"`
}

// SignAttachment encodes an attachment and signs it with key, the node's service key (ECDSA P-256). It sets
// the attachment's version.
func SignAttachment(key crypto.Signer, a Attachment) (SignedAttachment, error) {
	a.V = 1
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
