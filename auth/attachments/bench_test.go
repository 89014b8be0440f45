package attachments_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
)

// BenchmarkList10000 is one listing of 10,000 attached nodes, in pages of 1,000: design section 10 wants it
// within 300 ms.
func BenchmarkList10000(b *testing.B) {
	st, _ := statetest.NewCluster(b, roles...)
	proxy := identity.MachineID(state.NewID())
	if _, err := st.Attachments.KeepProxyLease(b.Context(), proxy, time.Hour); err != nil {
		b.Fatal(err)
	}
	var at []state.Attachment
	for i := range 10000 {
		m := state.Machine{
			ID:   identity.MachineID(state.NewID()),
			Kind: identity.Node,
			Name: fmt.Sprintf("node-%05d", i),
			Labels: identity.Labels{
				"env":  "dev",
				"rack": fmt.Sprint(i % 40),
			},
			Created: time.Now(),
			X509Key: make([]byte, 91),
			SSHKey:  make([]byte, 51),
		}
		name := fmt.Sprint(i)
		if _, err := st.Tokens.AddToken(b.Context(), name, state.Token{Hash: []byte(name)}); err != nil {
			b.Fatal(err)
		}
		token, err := st.Token(b.Context(), name)
		if err != nil {
			b.Fatal(err)
		}
		if err := st.Machines.AddMachine(b.Context(), m, token); err != nil {
			b.Fatal(err)
		}
		a := state.Attachment{Node: m.ID, ProxyID: proxy, Proxy: "edge", Since: time.Now()}
		a.Signed.Payload, a.Signed.Sig = make([]byte, 200), make([]byte, 72)
		at = append(at, a)
	}
	if err := st.Attachments.ChangeAttachments(b.Context(), proxy, at, nil, time.Now()); err != nil {
		b.Fatal(err)
	}
	directory := newDirectory(st, time.Now)
	who := statetest.User("alice", "everything")
	for b.Loop() {
		n := 0
		for q := (authrpc.ListNodesRequest{}); ; {
			page, err := directory.List(b.Context(), authrpc.Caller{Identity: who}, q)
			if err != nil {
				b.Fatal(err)
			}
			n += len(page.Nodes)
			if q.After = page.Next; q.After == "" {
				break
			}
		}
		if n != 10000 {
			b.Fatalf("got %d nodes", n)
		}
	}
}
