package dial

import (
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// PingPath is where a proxy tells anyone, over its public HTTPS, what it serves.
const PingPath = "/v1/ping"

// ConnectPath takes a WebSocket whose binary messages are the bytes of a threshold-* TLS connection.
const ConnectPath = "/v1/connect"

// Transport is how a proxy wants to be spoken to by tsh and machines.
type Transport string

const (
	// TLS is TLS to the port itself, or through what passes it on unopened. The zero value means it too.
	TLS Transport = "tls"
	// WebSocket is for a proxy behind a balancer that ends TLS.
	WebSocket Transport = "websocket"
)

// Ping is what a client needs to know before a first login. It is as trustworthy as the web certificate it
// came under; a client that was given a pin believes nothing in it but Transport.
type Ping struct {
	V       int          `json:"v"`
	Cluster string       `json:"cluster"`
	Pin     identity.Pin `json:"pin"`
	Version string       `json:"version"`
	Time    time.Time    `json:"time"` // the proxy's clock
	// Transport is how to come to this proxy. One who lies about it can only keep a connection from coming
	// about, so it may be believed without the certificate.
	Transport Transport `json:"transport,omitempty"`
}
