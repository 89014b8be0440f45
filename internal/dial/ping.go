package dial

import (
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// PingPath is where a proxy tells anyone, over its public HTTPS, what it serves.
const PingPath = "/v1/ping"

// Ping is what a client needs to know before a first login. It is as trustworthy as the web certificate it came under; a client that
// was given a pin does not ask for it.
type Ping struct {
	V       int          `json:"v"`
	Cluster string       `json:"cluster"`
	Pin     identity.Pin `json:"pin"`
	Version string       `json:"version"`
	Time    time.Time    `json:"time"` // the proxy's clock
}
