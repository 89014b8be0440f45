package rules

import (
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
)

// MachineLocks is a verified document of the locks of machines, for a client that has only the chain of
// authorities, as users do. It is immutable, and only Follow makes one. The zero value has no document, and
// denies nothing.
//
// There is no head beside it. A head says which documents belong together, and here is only one; what must
// not come back is an older one, and documents have revisions for that. A head does not help against somebody
// who holds newer documents back: they hold the newer heads back too.
type MachineLocks struct {
	signed   Signed
	revision Revision
	locks    access.Locks
	count    int // of locks
}

// Follow verifies a document of machine locks that somebody has passed on, who need not be trusted, and
// returns it: it is signed by a rules key of the authorities, and of the cluster. If m has the document
// already, Follow returns m. It returns an error for every other document and for one that is older than that
// of m, because an old one, which was once signed correctly, would bring back what has been locked since. The
// error is a fault if a newer release wrote the document.
func (m MachineLocks) Follow(cluster string, a ParsedAuthorities, s Signed) (MachineLocks, error) {
	if m.revision != (Revision{}) && s.equal(m.signed) {
		return m, nil
	}
	if err := s.verify(MachineLocksKind, a.rules...); err != nil {
		return m, err
	}
	var body Locks
	doc, err := decodeDocument(s.Payload, MachineLocksKind, &body)
	switch {
	case err != nil:
		return m, err
	case doc.Cluster != cluster:
		return m, fmt.Errorf("rules: %s are of cluster %.80q, not %q", MachineLocksKind, doc.Cluster, cluster)
	case !m.revision.Before(doc.Revision):
		const format = "rules: %s of revision %s do not follow revision %s already held"
		return m, fmt.Errorf(format, MachineLocksKind, doc.Revision, m.revision)
	}
	locks := access.NewLocks(body.Locks)
	return MachineLocks{signed: s, revision: doc.Revision, locks: locks, count: len(body.Locks)}, nil
}

// Revision is the revision of the document; the zero value has the lowest.
func (m MachineLocks) Revision() Revision { return m.revision }

// Signed is the document as it was signed, to keep it; the zero value has an empty one.
func (m MachineLocks) Signed() Signed { return m.signed }

// Empty reports whether there is no lock.
func (m MachineLocks) Empty() bool { return m.count == 0 }

// Denied returns a lock of the machine that is in force at the time, by the clock of this machine. ok is
// false if there is none.
func (m MachineLocks) Denied(id identity.MachineID, now time.Time) (lock access.Lock, ok bool) {
	return m.locks.MachineDenied(id, now)
}
