package state

import (
	"fmt"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// An attachment is found by node and by proxy until the proxy's lease ends. The time when the node was last
// seen stays.
func TestAttachmentsEndWithTheProxyLease(t *testing.T) {
	t.Parallel()
	s := open(t)
	web := newMachine(identity.Node, "web")
	must(t, s.Machines.AddMachine(t.Context(), web, token(t, s, "one")))
	proxy := identity.MachineID(NewID())
	kept, err := s.Attachments.KeepProxyLease(t.Context(), proxy, time.Minute)
	if err != nil || kept {
		t.Fatalf("got kept %v, %v, want a new lease", kept, err)
	}
	a := Attachment{Node: web.ID, ProxyID: proxy, Proxy: "edge", Since: time.Now()}
	must(t, s.Attachments.ChangeAttachments(t.Context(), proxy, []Attachment{a}, nil, time.Now()))
	if kept, err := s.Attachments.KeepProxyLease(t.Context(), proxy, time.Minute); err != nil || !kept {
		t.Errorf("got kept %v, %v, want the lease kept", kept, err)
	}
	byNode, err := s.AttachmentsByNode(t.Context(), web.ID)
	must(t, err)
	byProxy, err := s.AttachmentsByProxy(t.Context(), proxy)
	must(t, err)
	if len(byNode) != 1 || len(byProxy) != 1 {
		t.Errorf("got %v and %v, want the attachment by node and by proxy", byNode, byProxy)
	}
	lease, err := proxyLeases.get(t.Context(), s.Reader, string(proxy))
	must(t, err)
	must(t, s.writer.store.Revoke(t.Context(), lease.Value.Lease)) // as after a proxy was silent for too long
	byNode, err = s.AttachmentsByNode(t.Context(), web.ID)
	must(t, err)
	byProxy, err = s.AttachmentsByProxy(t.Context(), proxy)
	must(t, err)
	if len(byNode)+len(byProxy) != 0 {
		t.Errorf("got %v and %v after the lease, want none", byNode, byProxy)
	}
	if seen, err := s.LastSeen(t.Context(), web.ID); err != nil || seen.IsZero() {
		t.Errorf("got last seen %s, %v, want a time", seen, err)
	}
}

// Attached are the nodes of live proxies, those that left a moment ago, and the proxies that report.
func TestAttachedMachines(t *testing.T) {
	t.Parallel()
	s := open(t)
	now := time.Now()
	proxy, silent := identity.MachineID(NewID()), identity.MachineID(NewID())
	var nodes []Attachment
	for i := range 3 {
		m := newMachine(identity.Node, fmt.Sprintf("node-%d", i))
		must(t, s.Machines.AddMachine(t.Context(), m, token(t, s, m.Name)))
		nodes = append(nodes, Attachment{Node: m.ID})
	}
	here, left, gone := nodes[0:1], nodes[1:2], nodes[2:3]
	for _, p := range []identity.MachineID{proxy, silent} {
		_, err := s.Attachments.KeepProxyLease(t.Context(), p, time.Minute)
		must(t, err)
	}
	longAgo := now.Add(-time.Hour)
	must(t, s.Attachments.ChangeAttachments(t.Context(), proxy, here, nil, longAgo))
	must(t, s.Attachments.ChangeAttachments(t.Context(), silent, gone, nil, longAgo))
	must(t, s.Attachments.ChangeAttachments(t.Context(), proxy, left, nil, longAgo))
	must(t, s.Attachments.ChangeAttachments(t.Context(), proxy, nil, left, now))
	want := func(what string, since time.Time, want ...identity.MachineID) {
		t.Helper()
		got, err := s.AttachedMachines(t.Context(), since)
		must(t, err)
		for _, id := range want {
			if _, ok := got[id]; !ok || len(got) != len(want) {
				t.Errorf("%s: got %v, want %v", what, got, want)
			}
		}
	}
	want("with what left now", now, proxy, silent, here[0].Node, left[0].Node, gone[0].Node)
	lease, err := proxyLeases.get(t.Context(), s.Reader, string(silent))
	must(t, err)
	must(t, s.writer.store.Revoke(t.Context(), lease.Value.Lease)) // the proxy was silent for too long
	want("without a proxy", now, proxy, here[0].Node, left[0].Node)
	want("without what left now", now.Add(time.Second), proxy, here[0].Node)
}

// More attachments than fit into one transaction are stored and removed by one call.
func TestManyAttachmentsFitTheirTransactions(t *testing.T) {
	t.Parallel()
	s := open(t)
	proxy := identity.MachineID(NewID())
	_, err := s.Attachments.KeepProxyLease(t.Context(), proxy, time.Minute)
	must(t, err)
	many := make([]Attachment, 2*attachmentsPerTxn+1)
	for i := range many {
		many[i] = Attachment{
			Node:    identity.MachineID(fmt.Sprintf("%032x", i)),
			ProxyID: proxy,
			Proxy:   "edge",
			Since:   time.Now(),
		}
		many[i].Signed.Payload, many[i].Signed.Sig = make([]byte, 300), make([]byte, 72)
	}
	must(t, s.Attachments.ChangeAttachments(t.Context(), proxy, many, nil, time.Now()))
	to, err := s.AttachmentsByProxy(t.Context(), proxy)
	if err != nil || len(to) != len(many) {
		t.Errorf("got %d and %v, want %d", len(to), err, len(many))
	}
	must(t, s.Attachments.ChangeAttachments(t.Context(), proxy, nil, many, time.Now()))
	if to, err = s.AttachmentsByProxy(t.Context(), proxy); err != nil || len(to) != 0 {
		t.Errorf("got %d and %v, want none", len(to), err)
	}
}
