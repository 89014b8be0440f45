package jump

import (
	"fmt"
	"sync"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// maxPerUser is how many connections one person may have at once, over both fronts, and the channels on them.
// It leaves room for everyone else on a port that may have 20,000 descriptors, and is far over what a
// person's tools open.
const maxPerUser = 1000

// userQuota counts connections by person.
type userQuota struct {
	mu     sync.Mutex // guards visits
	counts map[person]int
}

// person is what makes somebody one and the same over logins.
type person struct{ connector, subject string }

// acquire counts a connection until leave is called, or says that there are too many.
func (p *userQuota) acquire(who identity.Identity) (leave func(), err error) {
	key := person{who.Connector, who.Subject}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.counts[key] >= maxPerUser {
		return nil, fault.New(
			fault.Exhausted,
			"proxy.enter",
			fmt.Sprintf("you have %d connections through this proxy already", maxPerUser),
			"end some of them, then try again",
		)
	}
	p.counts[key]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.counts[key]--; p.counts[key] == 0 {
			delete(p.counts, key)
		}
	}, nil
}
