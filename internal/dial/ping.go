package dial

import (
	"fmt"
	"io"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
)

// PingPath is the path of a proxy's ping document, which it serves to anyone on its public HTTPS port.
const PingPath = "/v1/ping"

// ConnectPath is the path of a WebSocket whose binary messages are the bytes of a threshold-* TLS connection.
const ConnectPath = "/v1/connect"

// Transport is how tsh and machines connect to a proxy.
type Transport string

const (
	// TLS is TLS to the port itself, or through something that passes it on unopened. An empty Transport
	// means it too.
	TLS Transport = "tls"
	// WebSocket is for a proxy behind a balancer that terminates TLS.
	WebSocket Transport = "websocket"
)

// Ping is what a client needs to know before a first login. It can be trusted no more than the web
// certificate of the proxy that served it. A client that was given a pin uses nothing of it but Transport.
type Ping struct {
	V        int           `json:"v"`
	Critical wire.Critical `json:"critical,omitempty"` // fields of this document
	Cluster  string        `json:"cluster"`
	Pin      identity.Pin  `json:"pin"`
	Version  string        `json:"version"`
	Time     time.Time     `json:"time"` // the proxy's clock
	// Transport is how to connect to this proxy. A false one only makes connections fail, so it may be used
	// without verifying the certificate.
	Transport Transport `json:"transport,omitempty"`
}

const (
	pingVersion  = 1
	maxPingBytes = 16 << 10
)

var pingFields = wire.Fields(Ping{})

// ReadPing reads a ping document, if this program may use it: see wire.Check. It reads no more than 16 KiB.
func ReadPing(r io.Reader) (Ping, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxPingBytes))
	if err != nil {
		return Ping{}, fmt.Errorf("read the ping document: %w", err)
	}
	var p Ping
	if err := wire.Unmarshal("the proxy's ping document", b, &p, pingVersion, pingFields); err != nil {
		return Ping{}, err
	}
	return p, nil
}
