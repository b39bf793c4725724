package states

import "time"

// Rules is everything that a decision depends on besides the record and the event. They enter the log when they change,
// so that a replay decides as the first time. Durations are data; zero durations switch a timer off.
type Rules struct {
	Organization string    `json:"organizationId"`
	Timing       Timing    `json:"timing"`
	Directory    Directory `json:"directory"`
	Paging       Paging    `json:"paging"`
}

// Timing holds the durations of a visit.
type Timing struct {
	CheckInOpens time.Duration   `json:"checkInOpens"` // before StartsAt; 0: at any time
	NoShow       time.Duration   `json:"noShow"`       // after StartsAt
	Readiness    time.Duration   `json:"readiness"`    // in checked-in, until patient and desk are nudged
	LongWait     []time.Duration `json:"longWait"`     // since check-in, one level each
	WaitLimit    time.Duration   `json:"waitLimit"`    // in the waiting room, until the visit counts as left without being seen
	ConnectSoft  time.Duration   `json:"connectSoft"`
	ConnectHard  time.Duration   `json:"connectHard"`
	ProviderDrop time.Duration   `json:"providerDrop"` // in on-hold without the provider, until the provider is called back
	PatientDrop  time.Duration   `json:"patientDrop"`  // in on-hold after the patient left, until wrapping-up
	BothAbsent   time.Duration   `json:"bothAbsent"`   // in on-hold without anybody, until wrapping-up
	WrapUpSoft   time.Duration   `json:"wrapUpSoft"`
	WrapUpHard   time.Duration   `json:"wrapUpHard"`
	MaxFuture    time.Duration   `json:"maxFuture"`  // a message stamped further ahead is refused
	MaxPast      time.Duration   `json:"maxPast"`    // a message stamped further back is refused
	KeepClosed   time.Duration   `json:"keepClosed"` // how long Redis remembers a closed record
}

// Directory knows people by their authenticated user ids.
type Directory struct {
	Staff map[string]Role `json:"staff"` // nurses, front desk, on-call staff: user id to role
}

// Paging says who is paged for a department and how often.
type Paging struct {
	OnCall        map[string][]string        `json:"onCall"`        // department to people; used when no on-call source is configured
	Ask           bool                       `json:"ask"`           // an on-call source is configured: ask it instead
	Failsafe      []string                   `json:"failsafe"`      // paged when nobody is on call, and when nobody answers
	Transports    []string                   `json:"transports"`    // gateways under consult.out.page.{transport}.{user}
	RePage        map[Severity]time.Duration `json:"rePage"`        // until an unanswered page is repeated
	FailsafeAfter int                        `json:"failsafeAfter"` // rounds without an answer before the failsafe is paged as well
	// DefaultDepartment is paged for an emergency inside no known visit.
	DefaultDepartment string `json:"defaultDepartment,omitempty"`
}

// DefaultRules are the durations that hold where a clinic says nothing else. They name no people: an organisation, its
// directory and who is paged have no default.
func DefaultRules() Rules {
	return Rules{
		Timing: Timing{
			CheckInOpens: 20 * time.Minute,
			NoShow:       15 * time.Minute,
			Readiness:    5 * time.Minute,
			LongWait:     []time.Duration{15 * time.Minute, 30 * time.Minute, 45 * time.Minute},
			WaitLimit:    4 * time.Hour,
			ConnectSoft:  30 * time.Second,
			ConnectHard:  2 * time.Minute,
			ProviderDrop: 90 * time.Second,
			PatientDrop:  5 * time.Minute,
			BothAbsent:   5 * time.Minute,
			WrapUpSoft:   10 * time.Minute,
			WrapUpHard:   time.Hour,
			MaxFuture:    5 * time.Minute,
			MaxPast:      15 * time.Minute,
			KeepClosed:   24 * time.Hour,
		},
		Paging: Paging{
			RePage: map[Severity]time.Duration{
				SeverityLifeThreatening: defaultRePage(SeverityLifeThreatening),
				SeverityCritical:        defaultRePage(SeverityCritical),
				SeverityUrgent:          defaultRePage(SeverityUrgent),
			},
			FailsafeAfter: 2,
		},
	}
}

// RosterTimeout is how long a triggered escalation waits for the on-call source before it pages the failsafe instead.
// It is a constant because the worst time to a first page follows from it.
const RosterTimeout = 2 * time.Second

// RePageAfter is how long a page of this severity may stay unanswered. A page is always repeated, so a missing or
// non-positive entry means the default.
func (p *Paging) RePageAfter(s Severity) time.Duration {
	if d := p.RePage[s]; d > 0 {
		return d
	}
	return defaultRePage(s)
}

func defaultRePage(s Severity) time.Duration {
	switch s {
	case SeverityLifeThreatening:
		return 30 * time.Second
	case SeverityUrgent:
		return 3 * time.Minute
	default:
		return time.Minute
	}
}
