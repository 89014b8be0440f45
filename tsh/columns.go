package tsh

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/output"
)

// listing is how resources of one kind are shown in a table.
type listing struct {
	headings []string
	cells    func(authrpc.Resource) []string // one for each heading; the table cleans them
}

// listings has the table of every kind of resource.
var listings = map[access.Resource]listing{
	access.Roles:      {[]string{"NAME", "ALLOW", "DENY"}, roleCells},
	access.Connectors: {[]string{"NAME", "TYPE", "ISSUER", "CLIENT"}, connectorCells},
	access.Users:      {[]string{"NAME", "FULL NAME", "EXTRA ROLES", "FACTOR", "LAST LOGIN"}, userCells},
	access.Tokens: {
		[]string{"NAME", "KIND", "JOINED", "LABELS", "STATE", "CREATED BY", "EXPIRES"}, tokenCells,
	},
	access.Nodes:       {[]string{"NAME", "LABELS", "JOINED", "RENEWED"}, nodeCells},
	access.Proxies:     {[]string{"NAME", "PUBLIC NAMES", "LABELS", "JOINED", "RENEWED"}, proxyCells},
	access.Replicas:    {[]string{"NAME", "ROLE", "CREATED"}, replicaCells},
	access.Authorities: {[]string{"NAME", "REVISION", "KEYS", "WAITS FOR THE ROOT"}, authoritiesCells},
	access.ClusterSettings: {
		[]string{"NAME", "RULES AGE", "TUNNELS", "DRAIN", "AUDIT RETENTION", "RESUME FOR", "RESUME BUFFER"},
		settingsCells,
	},
	access.ClusterLocks: {[]string{"ID", "HITS", "EFFECT", "END", "AUTHOR", "MESSAGE"}, lockCells},
	access.Events:       {[]string{"NUMBER", "TIME", "CODE", "USER", "MACHINE", "EVENT"}, eventCells},
}

// roleCells summarizes the grants of a role: the whole role is shown by get role NAME.
func roleCells(resource authrpc.Resource) []string {
	var role access.Role
	decodeKnown(resource.Spec, &role)
	return []string{resource.Metadata.Name, summarizeGrants(role.Allow), summarizeGrants(role.Deny)}
}

func connectorCells(resource authrpc.Resource) []string {
	var spec struct{ Type, Issuer, Client_ID string }
	decodeKnown(resource.Spec, &spec)
	return []string{resource.Metadata.Name, spec.Type, spec.Issuer, spec.Client_ID}
}

// userCells shows the roles that an administrator added to a user. The roles that come from the connector are
// known only at a login.
func userCells(resource authrpc.Resource) []string {
	var spec struct{ Roles []string }
	var status struct {
		Name          string
		Last_Login    time.Time
		Second_Factor bool
	}
	decodeKnown(resource.Spec, &spec)
	decodeKnown(resource.Status, &status)
	factor := "none"
	if status.Second_Factor {
		factor = "enrolled"
	}
	roles := strings.Join(spec.Roles, ",")
	return []string{resource.Metadata.Name, status.Name, roles, factor, timeText(status.Last_Login)}
}

// tokenCells never shows the token itself: the auth service keeps only its hash.
func tokenCells(resource authrpc.Resource) []string {
	var spec struct {
		Kind   string
		Uses   int
		Labels map[string]string
	}
	var status struct {
		State, By string
		Joined    []struct{ ID string }
		Expires   time.Time
	}
	decodeKnown(resource.Spec, &spec)
	decodeKnown(resource.Status, &status)
	name, labels, expires := resource.Metadata.Name, labelText(spec.Labels), timeText(status.Expires)
	joined := fmt.Sprintf("%d of %d", len(status.Joined), spec.Uses)
	return []string{name, spec.Kind, joined, labels, status.State, status.By, expires}
}

func nodeCells(resource authrpc.Resource) []string {
	var status struct{ Created, Renewed time.Time }
	decodeKnown(resource.Status, &status)
	name, labels := resource.Metadata.Name, labelText(resource.Metadata.Labels)
	return []string{name, labels, timeText(status.Created), timeText(status.Renewed)}
}

func proxyCells(resource authrpc.Resource) []string {
	var status struct{ Names []string }
	decodeKnown(resource.Status, &status)
	return slices.Insert(nodeCells(resource), 1, strings.Join(status.Names, ","))
}

func replicaCells(resource authrpc.Resource) []string {
	var status struct {
		Role    string
		Created time.Time
	}
	decodeKnown(resource.Status, &status)
	return []string{resource.Metadata.Name, status.Role, timeText(status.Created)}
}

// authoritiesCells shows how many keys verifiers trust, and whether a request waits for the root.
func authoritiesCells(resource authrpc.Resource) []string {
	var status struct {
		Revision string
		Keys     []json.RawMessage
		Request  json.RawMessage
	}
	decodeKnown(resource.Status, &status)
	waits := "no"
	if len(status.Request) > 0 {
		waits = "yes"
	}
	return []string{resource.Metadata.Name, status.Revision, strconv.Itoa(len(status.Keys)), waits}
}

// lockCells shows what a lock hits as the auth service describes it.
func lockCells(resource authrpc.Resource) []string {
	lock := decodeLock(resource)
	effect := "deny"
	if lock.withoutRole != "" {
		effect = "without role " + lock.withoutRole
	}
	end := timeText(lock.end)
	if lock.ended {
		end += " (ended)"
	}
	return []string{resource.Metadata.Name, lock.hits, effect, end, lock.author, lock.message}
}

// settingsCells shows the settings as they are written in their document.
func settingsCells(resource authrpc.Resource) []string {
	var spec struct {
		Rules_Age, Drain, Audit_Retention, Resume_For string
		Tunnels, Resume_Buffer                        int
	}
	decodeKnown(resource.Spec, &spec)
	tunnels, buffer := strconv.Itoa(spec.Tunnels), strconv.Itoa(spec.Resume_Buffer)
	return []string{
		resource.Metadata.Name, spec.Rules_Age, tunnels, spec.Drain, spec.Audit_Retention,
		spec.Resume_For, buffer,
	}
}

// eventCells shows one event of the audit log. For an event of a session the machine is shown as
// login@machine.
func eventCells(resource authrpc.Resource) []string {
	var event audit.Event
	decodeKnown(resource.Spec, &event)
	var body struct{ Login string }
	decodeKnown(event.Body, &body)
	description := audit.Describe(event.Code)
	if description == "" {
		description = "unknown event of a newer version"
	}
	user, machine := "", event.Machine.Name
	if event.Actor.Kind == identity.User {
		user = event.Actor.Name
	}
	if body.Login != "" {
		machine = body.Login + "@" + machine
	}
	number, code := resource.Metadata.Name, string(event.Code)
	return []string{number, timeText(event.Time), code, user, machine, description}
}

// writeListing writes the table of a kind.
func writeListing(w io.Writer, kind access.Resource, list []authrpc.Resource) error {
	table := listings[kind]
	var rows [][]string
	for _, resource := range list {
		rows = append(rows, table.cells(resource))
	}
	return output.WriteTable(w, table.headings, rows)
}

// decodeKnown decodes raw into the fields of into and ignores other fields and errors: of a resource that a
// newer version wrote, the table shows what this version can decode.
func decodeKnown(raw json.RawMessage, into any) { _ = json.Unmarshal(raw, into) }

// timeText is a time in the local time zone, or "" for the zero time.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// summarizeGrants describes grants in one line of at most 72 characters, as in
// "root on env=prod|test: shell,exec; roles: get". A grant is about nodes or about resources.
func summarizeGrants(grants []access.Grant) string {
	var parts []string
	for _, grant := range grants {
		part := strings.Join(grant.Resources, ",")
		if len(grant.Nodes) > 0 {
			part = grantScope(grant)
		}
		if len(grant.Actions) > 0 {
			part += ": " + strings.Join(grant.Actions, ",")
		}
		parts = append(parts, part)
	}
	const limit = 72
	summary := strings.Join(parts, "; ")
	if runes := []rune(summary); len(runes) > limit {
		return string(runes[:limit-1]) + "…"
	}
	return summary
}

// grantScope describes the logins and nodes of a grant.
func grantScope(grant access.Grant) string {
	var nodes []string
	for key, values := range grant.Nodes {
		if key == "*" {
			nodes = append(nodes, "every node")
			continue
		}
		nodes = append(nodes, fmt.Sprintf("%s=%s", key, strings.Join(values, "|")))
	}
	slices.Sort(nodes)
	scope := strings.Join(nodes, " ")
	if len(grant.Logins) == 0 {
		return scope
	}
	return strings.Join(grant.Logins, ",") + " on " + scope
}
