package jump

import (
	"fmt"
	"sync"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// maxVisits is how many connections one person may have at once, over both fronts, and the channels on them. It leaves room for everyone else on a port that may
// have 20,000 descriptors, and is far over what a person's tools open.
const maxVisits = 1000

// people counts connections by person.
type people struct {
	mu     sync.Mutex // guards visits
	visits map[person]int
}

// person is what makes somebody one and the same over logins.
type person struct{ connector, subject string }

// enter counts a connection until leave is called, or says that there are too many.
func (p *people) enter(who identity.Identity) (leave func(), err error) {
	key := person{who.Connector, who.Subject}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.visits[key] >= maxVisits {
		return nil, fault.New(fault.Exhausted, "proxy.enter", fmt.Sprintf("you have %d connections through this proxy already", maxVisits), "end some of them, then try again")
	}
	p.visits[key]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.visits[key]--; p.visits[key] == 0 {
			delete(p.visits, key)
		}
	}, nil
}
