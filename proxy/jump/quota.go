package jump

import (
	"sync"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// maxPerUser is how many connections one user may have at once, over both protocols and counting SSH
// channels. It is far more than the tools of one user open, and a small part of the 20,000 file descriptors
// a proxy may have.
const maxPerUser = 1000

// acquire counts one more connection of the user, until release is called. At maxPerUser it returns a fault
// of kind Exhausted instead. release may be called more than once.
func (s *Server) acquire(who identity.Identity) (release func(), err error) {
	key := who.UserKey()
	if _, ok := s.users.TryAcquire(key, maxPerUser); !ok {
		return nil, proxyConnectionsFull.New("proxy.acquire", fault.Args{"most": maxPerUser})
	}
	return sync.OnceFunc(func() { s.users.Release(key) }), nil
}
