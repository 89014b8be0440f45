package rules

import (
	"crypto"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// Acknowledger signs by which rules the node decides, for auth. It signs once for each change of a document,
// so all tunnels carry the same bytes, and auth verifies them once. It is safe for concurrent use.
type Acknowledger struct {
	keeper *Keeper
	node   identity.MachineID
	key    crypto.Signer

	mu     sync.Mutex // guards the fields below; held while an acknowledgement is signed
	head   rules.Head // of the rules that newest says are in force; zero before the first
	newest []byte
}

// NewAcknowledger returns the acknowledger of a node. key is that of its service certificate.
func NewAcknowledger(keeper *Keeper, node identity.MachineID, key crypto.Signer) *Acknowledger {
	return &Acknowledger{keeper: keeper, node: node, key: key}
}

// Newest returns the signed acknowledgement of the documents that are in force, in its wire form, and a
// channel that is closed when others get in force. The channel is valid also with an error.
func (a *Acknowledger) Newest() (acknowledgement []byte, changed <-chan struct{}, err error) {
	changed = a.keeper.Changed() // before Current, so that no change is missed
	a.mu.Lock()
	defer a.mu.Unlock()
	trust := a.keeper.Current()
	if rules.SameDocuments(a.head, trust.Head) {
		return a.newest, changed, nil
	}
	signed, err := trust.Acknowledge(a.key, a.node, a.keeper.now())
	if err != nil {
		return nil, changed, err
	}
	encoded, err := json.Marshal(signed)
	if err != nil {
		return nil, changed, fmt.Errorf("encode the acknowledgement of the rules: %w", err)
	}
	a.head, a.newest = trust.Head, encoded
	return encoded, changed, nil
}
