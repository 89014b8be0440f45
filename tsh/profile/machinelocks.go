package profile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/wire"
)

// machineLocksVersion is the newest format of machine-locks.json that this code reads. It writes this
// version.
const machineLocksVersion = 1

// keptMachineLocks is machine-locks.json. Nothing in it is trusted before it is verified.
type keptMachineLocks struct {
	V        int           `json:"v"`
	Critical wire.Critical `json:"critical,omitempty"`
	Document rules.Signed  `json:"document"`
}

// MachineLocks reads the locks of machines that this machine has heard of, and verifies them by the login's
// authorities. They are the zero value if there are none, and with an error, which is for a file that cannot
// be used.
func (p *Profile) MachineLocks() (rules.MachineLocks, error) {
	b, err := p.readFile(machineLocksFile)
	if errors.Is(err, fs.ErrNotExist) {
		return rules.MachineLocks{}, nil
	}
	if err != nil {
		return rules.MachineLocks{}, err
	}
	var kept keptMachineLocks
	err = wire.Unmarshal(machineLocksFile, b, &kept, machineLocksVersion, wire.Fields(kept))
	if err != nil {
		return rules.MachineLocks{}, err
	}
	return rules.MachineLocks{}.Follow(p.Cluster, p.Authorities, kept.Document)
}

// SaveMachineLocks keeps locks of machines for later commands, in the place of those that are kept. The
// faults are writeFault's.
func (p *Profile) SaveMachineLocks(locks rules.MachineLocks) error {
	b, err := json.Marshal(keptMachineLocks{V: machineLocksVersion, Document: locks.Signed()})
	if err != nil {
		return fmt.Errorf("encode the machine locks: %w", err)
	}
	path := p.Path(machineLocksFile)
	if err := durable.WriteFile(path, append(b, '\n')); err != nil {
		return writeFault(path, err)
	}
	return nil
}
