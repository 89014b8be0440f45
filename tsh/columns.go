package tsh

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/tsh/output"
)

// listing is how resources of one kind are shown in a table.
type listing struct {
	headings []string
	cells    func(authrpc.Resource) []string // one for each heading; the table cleans them
}

// listings has every kind.
var listings = map[access.Resource]listing{
	access.Roles:      {[]string{"NAME", "ALLOW", "DENY"}, roleCells},
	access.Connectors: {[]string{"NAME", "TYPE", "ISSUER", "CLIENT"}, connectorCells},
	access.Users:      {[]string{"NAME", "FULL NAME", "EXTRA ROLES", "FACTOR", "LAST LOGIN"}, userCells},
	access.Tokens:     {[]string{"NAME", "KIND", "LABELS", "STATE", "CREATED BY", "EXPIRES"}, tokenCells},
	access.Machines:   {[]string{"NAME", "KIND", "LABELS", "JOINED", "RENEWED"}, machineCells},
	access.Events:     {[]string{"NUMBER", "TIME", "CODE", "USER", "MACHINE", "EVENT"}, eventCells},
}

// roleCells summarizes the grants of a role: the whole role is shown by get role NAME.
func roleCells(r authrpc.Resource) []string {
	var role access.Role
	decodeKnown(r.Spec, &role)
	return []string{r.Metadata.Name, summarizeGrants(role.Allow), summarizeGrants(role.Deny)}
}

func connectorCells(r authrpc.Resource) []string {
	var c struct{ Type, Issuer, Client_ID string }
	decodeKnown(r.Spec, &c)
	return []string{r.Metadata.Name, c.Type, c.Issuer, c.Client_ID}
}

// userCells shows the roles that an administrator added to a user. The roles that come from the connector are
// known only at a login.
func userCells(r authrpc.Resource) []string {
	var spec struct{ Roles []string }
	var status struct {
		Name          string
		Last_Login    time.Time
		Second_Factor bool
	}
	decodeKnown(r.Spec, &spec)
	decodeKnown(r.Status, &status)
	factor := "none"
	if status.Second_Factor {
		factor = "enrolled"
	}
	roles := strings.Join(spec.Roles, ",")
	return []string{r.Metadata.Name, status.Name, roles, factor, timeText(status.Last_Login)}
}

// tokenCells never shows the token itself: the auth service keeps only its hash.
func tokenCells(r authrpc.Resource) []string {
	var spec struct {
		Kind   string
		Labels map[string]string
	}
	var status struct {
		State, By string
		Expires   time.Time
	}
	decodeKnown(r.Spec, &spec)
	decodeKnown(r.Status, &status)
	return []string{
		r.Metadata.Name, spec.Kind, labelText(spec.Labels), status.State, status.By, timeText(status.Expires),
	}
}

func machineCells(r authrpc.Resource) []string {
	var status struct {
		Kind             string
		Created, Renewed time.Time
	}
	decodeKnown(r.Status, &status)
	labels := labelText(r.Metadata.Labels)
	return []string{r.Metadata.Name, status.Kind, labels, timeText(status.Created), timeText(status.Renewed)}
}

// eventCells shows one event of the audit log.
func eventCells(r authrpc.Resource) []string {
	var e audit.Event
	decodeKnown(r.Spec, &e)
	description := audit.Descriptions[e.Code]
	if description == "" {
		description = "unknown event of a newer version"
	}
	machine := e.Machine
	if e.Login != "" {
		machine = string(e.Login) + "@" + machine
	}
	return []string{r.Metadata.Name, timeText(e.Time), string(e.Code), e.User, machine, description}
}

// writeListing writes the table of a kind.
func writeListing(w io.Writer, kind access.Resource, list []authrpc.Resource) error {
	l := listings[kind]
	var rows [][]string
	for _, r := range list {
		rows = append(rows, l.cells(r))
	}
	return output.WriteTable(w, l.headings, rows)
}

// decodeKnown decodes the fields that this version knows. It ignores errors: of a resource of a newer version
// the table shows what could be decoded.
func decodeKnown(raw json.RawMessage, into any) { _ = json.Unmarshal(raw, into) }

// timeText is a time in the local time zone, or "" for the zero time.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// summarizeGrants describes grants in one line, as in "root on env=prod|test: shell,exec; roles: get".
func summarizeGrants(grants []access.Grant) string {
	var parts []string
	for _, g := range grants {
		part := strings.Join(g.Resources, ",")
		if len(g.Nodes) > 0 {
			part = grantScope(g)
		}
		if len(g.Actions) > 0 {
			part += ": " + strings.Join(g.Actions, ",")
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
func grantScope(g access.Grant) string {
	var nodes []string
	for key, values := range g.Nodes {
		if key == "*" {
			nodes = append(nodes, "every node")
			continue
		}
		nodes = append(nodes, fmt.Sprintf("%s=%s", key, strings.Join(values, "|")))
	}
	slices.Sort(nodes)
	scope := strings.Join(nodes, " ")
	if len(g.Logins) == 0 {
		return scope
	}
	return strings.Join(g.Logins, ",") + " on " + scope
}
