// Package attachments answers: which nodes are there, and to which proxies are they attached?
//
// A node is on record from the day it joins. An attachment is the node's own signed statement that it has
// a tunnel to a proxy. The proxy passes it on to auth, which believes no proxy without it. Attachments end
// with the lease of their proxy. Each report of the proxy renews the lease, so a report that changes
// nothing writes nothing.
//
// Updater stores what proxies report. Directory finds and lists nodes; it holds nothing that writes.
package attachments

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	// leaseDuration is how long attachments stay valid after the last report of their proxy.
	leaseDuration = 30 * time.Second
	// reportInterval is when a proxy reports again even if nothing changed. Two reports in a row may be lost
	// before the lease ends.
	reportInterval = 10 * time.Second
	// maxReport bounds the nodes of one report.
	maxReport = 20000
	// maxVersion bounds the text of an agent's release, in bytes.
	maxVersion = 64
)

// Reader reads machines and the attachments to a proxy. state.Reader is one.
type Reader interface {
	Machine(ctx context.Context, id identity.MachineID) (state.Stored[state.Machine], error)
	AttachmentsByProxy(
		ctx context.Context, proxy identity.MachineID,
	) (map[identity.MachineID]state.Attachment, error)
}

// Writer stores the attachments of proxies. state.Attachments is one.
type Writer interface {
	// KeepProxyLease renews the proxy's lease, or gives it a new one; kept says which.
	KeepProxyLease(ctx context.Context, proxy identity.MachineID, ttl time.Duration) (kept bool, err error)
	// ChangeAttachments stores attachments under the proxy's lease, and removes others.
	ChangeAttachments(
		ctx context.Context, proxy identity.MachineID, added, removed []state.Attachment, now time.Time,
	) error
}

// UpdaterConfig says what an updater needs; all of it is required.
type UpdaterConfig struct {
	Reader Reader
	Writer Writer
	Now    func() time.Time
	Log    *slog.Logger
}

// Updater stores what proxies report. It is safe for concurrent use.
type Updater struct{ cfg UpdaterConfig }

// NewUpdater makes an updater.
func NewUpdater(cfg UpdaterConfig) *Updater { return &Updater{cfg} }

// Report stores which nodes are attached to the proxy, and renews the proxy's lease. req lists all of them,
// each with the attachment that the node signed. Nodes that the store has for the proxy and that are not in
// the list are detached. An attachment that does not verify is logged and left out, and a node that had a
// valid one keeps that. The response says when the proxy must report again. A list of more than maxReport
// nodes is fault Invalid, and nothing is stored.
func (u *Updater) Report(
	ctx context.Context,
	proxy identity.Identity,
	req authrpc.ReportNodesRequest,
) (authrpc.ReportNodesResponse, error) {
	var none authrpc.ReportNodesResponse
	if len(req.Attached) > maxReport {
		return none, reportTooLarge.New("attachments.Report", fault.Args{
			"count": len(req.Attached),
			"most":  maxReport,
		})
	}
	// The lease is renewed before the attachments are read, so that it does not end between the two and take
	// attachments with it that then count as unchanged.
	if _, err := u.cfg.Writer.KeepProxyLease(ctx, proxy.ID, leaseDuration); err != nil {
		return none, err
	}
	unreported, err := u.cfg.Reader.AttachmentsByProxy(ctx, proxy.ID) // less each node that the list has
	if err != nil {
		return none, err
	}
	var added []state.Attachment
	for _, reported := range req.Attached {
		old, known := unreported[reported.Node]
		delete(unreported, reported.Node)
		if known && unchanged(old, reported) {
			continue
		}
		verified, err := u.verify(ctx, proxy, reported, old)
		if err != nil {
			node := fmt.Sprintf("%.40q", reported.Node)
			u.cfg.Log.Warn("an attachment was refused", "proxy", proxy.Name, "node", node, "err", err)
			continue
		}
		added = append(added, verified)
	}
	removed := make([]state.Attachment, 0, len(unreported))
	for _, old := range unreported {
		removed = append(removed, old)
	}
	if err := u.cfg.Writer.ChangeAttachments(ctx, proxy.ID, added, removed, u.cfg.Now()); err != nil {
		return none, err
	}
	return authrpc.ReportNodesResponse{ReportAfter: reportInterval}, nil
}

// unchanged reports whether the store holds exactly what was reported.
func unchanged(old state.Attachment, reported authrpc.AttachedNode) bool {
	return old.Version == reported.Version &&
		bytes.Equal(old.Signed.Payload, reported.Attachment.Payload) &&
		bytes.Equal(old.Signed.Sig, reported.Attachment.Sig)
}

// verify returns the attachment to store, or an error that says what is wrong with the reported one. The node
// must be on record, must itself have signed that it is attached to this proxy, and the statement must be
// fresh: not from before the node joined, not from the future, and not older than the attachment that the
// store has (old; the zero value if it has none). It may otherwise be of any age, since a tunnel may last for
// weeks.
//
// A proxy can therefore repeat the last statement of a node that has left. It gains nothing by that:
// connections for the node then come to this proxy and fail, and the proxy could have dropped them anyway.
func (u *Updater) verify(
	ctx context.Context,
	proxy identity.Identity,
	reported authrpc.AttachedNode,
	old state.Attachment,
) (state.Attachment, error) {
	onRecord, err := u.cfg.Reader.Machine(ctx, reported.Node)
	if err != nil {
		return state.Attachment{}, err
	}
	key, err := x509.ParsePKIXPublicKey(onRecord.Value.X509Key)
	if err != nil {
		return state.Attachment{}, err
	}
	stated, err := reported.Attachment.Verify(key)
	if err != nil {
		return state.Attachment{}, err
	}
	earliest := onRecord.Value.Created.Add(-identity.Skew)
	if old.Since.After(earliest) {
		earliest = old.Since
	}
	latest := u.cfg.Now().Add(identity.Skew)
	version := reported.Version // "" if the agent does not say
	badVersion := len(version) > maxVersion ||
		version != "" && identity.CheckText("version", version) != nil
	switch {
	case onRecord.Value.Kind != identity.Node:
		err = fmt.Errorf("%s is a %s", onRecord.Value.Name, onRecord.Value.Kind)
	case stated.Node != reported.Node:
		err = fmt.Errorf("it is signed for node %.40q", stated.Node)
	case stated.Proxy != proxy.Name:
		err = fmt.Errorf("it is signed for proxy %.80q", stated.Proxy)
	case stated.Time.Before(earliest), stated.Time.After(latest):
		err = fmt.Errorf("it is signed at %s, which is not fresh", stated.Time.UTC().Format(time.RFC3339))
	case badVersion:
		err = fmt.Errorf("its version is too long or not plain text")
	}
	if err != nil {
		return state.Attachment{}, err
	}
	return state.Attachment{
		Node:    reported.Node,
		ProxyID: proxy.ID,
		Proxy:   proxy.Name,
		Since:   stated.Time.UTC(),
		Version: version,
		Signed:  reported.Attachment,
	}, nil
}
