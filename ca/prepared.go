package ca

import (
	"context"
	"crypto/x509"
	"sync/atomic"

	"golang.org/x/crypto/ssh"
)

// Issued has the certificates of one request. Their record is committed.
type Issued struct {
	SSH    *ssh.Certificate    // nil if none was asked for, or for a user without logins
	X509   *x509.Certificate   // nil if none was asked for
	Chain  []*x509.Certificate // leaf first; for Service followed by the intermediate and the cluster root
	Record Record
}

// Prepared has certificates that are signed, and that nobody can use yet: only Release gives them out.
type Prepared struct {
	issued   []Issued
	released atomic.Bool
}

// Commit stores issuance records, together with what the certificates are issued for. It returns nil only
// when all of it is durable.
type Commit func(ctx context.Context, records []Record) error

// Release has the issuance records committed, and only then returns the certificates, in the order of the
// requests. If commit fails, it returns that error and no certificate: one without a record could be used
// without a trace. A second call, also after a failure, is fault Internal.
func (p *Prepared) Release(ctx context.Context, commit Commit) ([]Issued, error) {
	if p.released.Swap(true) {
		return nil, releasedBefore.New("ca.Release")
	}
	records := make([]Record, len(p.issued))
	for i, issued := range p.issued {
		records[i] = issued.Record
	}
	if err := commit(ctx, records); err != nil {
		return nil, err
	}
	return p.issued, nil
}
