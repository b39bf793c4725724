package scenario_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"consultd/test/clinic"
)

// Emergencies with a static list: who is paged, who takes it, how it ends. Pages are repeated after a minute, so never here.
func TestEmergencies(t *testing.T) {
	t.Parallel()
	h := open(t, build{})
	h.tell(map[string]func(*story){
		"raised over NATS, accepted over PubNub":                       raisedOverNATS,
		"raised by an app":                                             func(s *story) { raisedByAVoice(s, s.app(s.patient)) },
		"raised by a browser":                                          func(s *story) { raisedByAVoice(s, s.browser(s.patient)) },
		"raised by somebody whom nobody knows":                         raisedByAStranger,
		"the same emergency raised twice":                              raisedTwice,
		"the app on call gets the page":                                theAppIsPaged,
		"asked for in a visit, over NATS":                              func(s *story) { askedForInAVisit(s, s.via("patient:"+s.patient), s.patient) },
		"asked for in a visit, by the provider's app":                  func(s *story) { askedForInAVisit(s, s.app(s.provider), s.provider) },
		"asked for in a visit, by the patient's browser":               func(s *story) { askedForInAVisit(s, s.browser(s.patient), s.patient) },
		"asked for after the visit is over, by naming the appointment": func(s *story) { askedForAfterTheEnd(s, s.asPatient()) },
		"asked for after the visit is over, from an app":               func(s *story) { askedForAfterTheEnd(s, s.app(s.patient)) },
		"asked for without a visit, by naming the department":          func(s *story) { askedForWithoutVisit(s, s.asPatient()) },
		"asked for without a visit, from an app":                       func(s *story) { askedForWithoutVisit(s, s.app(s.patient)) },
		"a second accept hears who was first":                          acceptedTwice,
		"somebody who was not asked cannot reject":                     rejectedByOthers,
		"all on call reject, so the next round goes out at once":       rejectedByAll,
		"attended without an accept":                                   attendedAtOnce,
		"resolved":                                                     func(s *story) { closed(s, "EMERGENCY_RESOLVED", M{"outcomeCode": "stabilised"}, "resolved") },
		"cancelled as a false alarm":                                   func(s *story) { closed(s, "EMERGENCY_CANCELLED", M{"reasonCode": "false-alarm"}, "cancelled") },
		"a higher severity pages again, a lower one does not":          severityChanges,
		"nobody may answer for somebody else":                          answeredForAnother,
		"an unknown emergency is no emergency to accept":               unknownEscalation,
		"the clock of whoever calls for help does not matter":          wrongClock,
	})
	h.judge()
}

// begins names what everybody is told at the start of an emergency.
func (s *story) begins() {
	s.t.Helper()
	said := s.announced("EMERGENCY_PAGED", M{"round": 1, "users": 2, "departmentId": s.department, "status": "waiting"})
	if s.escalation == "" {
		s.escalation = fmt.Sprint(said["escalationId"])
	}
	s.everybodyPaged(1)
}

// closes ends the story's emergency, so that nothing more comes.
func (s *story) closes(told ...string) {
	s.t.Helper()
	s.answers(s.via("backend:ehr"), "ehr", "EMERGENCY_RESOLVED", M{"outcomeCode": "stabilised"})
	s.announced("EMERGENCY_CLOSED", M{"outcome": "resolved", "status": "closed"})
	for _, person := range told {
		s.told(person, "EMERGENCY_CLOSED", M{"outcome": "resolved"})
	}
	s.nothingMore()
}

func raisedOverNATS(s *story) {
	first, second := s.onCall[0], s.onCall[1]
	s.raises(s.asNurse(), M{"reason": freeText, "severity": "life-threatening"})
	s.begins()
	s.answers(s.app(second), second, "EMERGENCY_ACCEPTED")
	s.announced("EMERGENCY_ACCEPTED", M{"userId": second, "status": "accepted"})
	s.told(first, "EMERGENCY_TAKEN", M{"acceptedBy": second})
	s.answers(s.app(second), second, "EMERGENCY_ATTENDED")
	s.announced("EMERGENCY_ATTENDED", M{"userId": second, "status": "attended"})
	s.closes(first, second)
}

func raisedByAVoice(s *story, who voice) {
	s.raises(who, M{"escalatedBy": s.patient, "reason": freeText})
	s.begins()
	if e := s.storedEscalation(); e == nil || e.Reason.Reveal() != freeText || e.RaisedBy.ID != s.patient {
		s.t.Errorf("the emergency is %+v, want its reason kept and who raised it", e)
	}
	s.answers(s.browser(s.onCall[0]), s.onCall[0], "EMERGENCY_ACCEPTED")
	s.announced("EMERGENCY_ACCEPTED", M{"userId": s.onCall[0]})
	s.told(s.onCall[1], "EMERGENCY_TAKEN")
	s.closes(s.onCall[:]...)
}

// Whoever calls for help gets it, whatever his id looks like.
func raisedByAStranger(s *story) {
	s.raises(s.app("somebody@home.example"), M{"escalatedBy": "somebody"})
	s.begins()
	s.closes(s.onCall[:]...)
}

func raisedTwice(s *story) {
	s.raises(s.asNurse())
	s.begins()
	s.raises(s.asNurse()) // the very same message
	s.raises(s.asProvider(), M{"escalatedBy": s.provider})
	s.refused(s.provider, "EMERGENCY_ESCALATION", "ALREADY_RAISED")
	s.nothingMore()
	s.decided("EMERGENCY_ESCALATION", 2)
	s.closes(s.onCall[:]...)
}

func theAppIsPaged(s *story) {
	app := s.clinic.App(s.onCall[0], "notification."+s.onCall[0], s.emergency())
	s.raises(s.asNurse())
	s.begins()
	page := app.Await("the page in the app", clinic.With("notification."+s.onCall[0], M{"type": "EMERGENCY_ESCALATION", "escalationId": s.escalation}))
	if page.Body["title"] != "URGENT: CRITICAL Escalation" {
		s.t.Errorf("the page is titled %v", page.Body["title"])
	}
	s.answers(app.Say, s.onCall[0], "EMERGENCY_ACCEPTED", M{"escalationId": page.Body["escalationId"]}) // as the page named it
	s.announced("EMERGENCY_ACCEPTED")
	app.Await("the answer on the department's channel", clinic.With(s.emergency(), M{"action": "EMERGENCY_ACCEPTED", "userId": s.onCall[0]}))
	s.told(s.onCall[1], "EMERGENCY_TAKEN")
	s.closes(s.onCall[:]...)
}

// The department is the visit's: a channel names no department, and what the message says is not believed.
func askedForInAVisit(s *story, who voice, whose string) {
	s.meets()
	who(s.visit(), M{"action": "EMERGENCY_REQUESTED", "severity": "life-threatening", "reasonCode": "chest-pain", "reason": freeText, "escalatedBy": whose})
	said := s.announced("EMERGENCY_PAGED", M{"round": 1, "severity": "life-threatening", "appointmentId": s.appointment, "consultationId": s.visit()})
	s.escalation = fmt.Sprint(said["escalationId"])
	s.everybodyPaged(1)
	s.accepted("EMERGENCY_REQUESTED", 1)
	s.answers(s.via("on-call:"+s.onCall[0]), s.onCall[0], "EMERGENCY_ACCEPTED")
	s.announced("EMERGENCY_ACCEPTED")
	s.told(s.onCall[1], "EMERGENCY_TAKEN")
	s.closes(s.onCall[:]...)
	if v := s.stored(); v == nil || v.Escalation != s.escalation || v.State != "in-progress" {
		s.t.Errorf("the visit is %+v, want it under way and with its emergency noted", v)
	}
}

func askedForAfterTheEnd(s *story, who voice) {
	s.waits()
	s.atDesk(s.asPatient(), "PATIENT_LEFT")
	s.queued("PATIENT_REMOVED")
	s.told(s.provider, "SCHEDULE_CHANGE")
	s.went("left-without-being-seen")
	who(s.visit(), M{"action": "EMERGENCY_REQUESTED", "appointmentId": s.appointment})
	s.begins() // critical, when nobody says otherwise
	s.closes(s.onCall[:]...)
	s.nobodyElsePaged()
}

func askedForWithoutVisit(s *story, who voice) {
	who(s.visit(), M{"action": "EMERGENCY_REQUESTED", "departmentId": s.department, "severity": "critical"})
	s.begins()
	s.closes(s.onCall[:]...)
	s.nobodyElsePaged()
}

// nobodyElsePaged makes sure that the default department was not paged for this story as well.
func (s *story) nobodyElsePaged() {
	s.t.Helper()
	for _, m := range s.house.ear.on("emergency.lobby") {
		if m["consultationId"] == s.visit() {
			s.t.Errorf("the default department was paged as well: %v", m)
		}
	}
}

func acceptedTwice(s *story) {
	first, second := s.onCall[0], s.onCall[1]
	s.raises(s.asNurse())
	s.begins()
	s.answers(s.via("on-call:"+first), first, "EMERGENCY_ACCEPTED")
	s.announced("EMERGENCY_ACCEPTED", M{"userId": first})
	s.told(second, "EMERGENCY_TAKEN", M{"acceptedBy": first})
	s.answers(s.app(second), second, "EMERGENCY_ACCEPTED")
	s.refused(second, "EMERGENCY_ACCEPTED", "ALREADY_ACCEPTED")
	s.answers(s.app(first), first, "EMERGENCY_ACCEPTED") // not again either
	s.refused(first, "EMERGENCY_ACCEPTED", "ALREADY_ACCEPTED")
	s.closes(first, second)
}

func rejectedByOthers(s *story) {
	s.raises(s.asNurse())
	s.begins()
	s.answers(s.app(s.patient), s.patient, "EMERGENCY_REJECTED")
	s.refused(s.patient, "EMERGENCY_REJECTED", "NOT_PAGED")
	s.answers(s.app(s.patient), s.patient, "EMERGENCY_ACCEPTED")
	s.refused(s.patient, "EMERGENCY_ACCEPTED", "NOT_PAGED")
	s.answers(s.app(s.patient), s.patient, "EMERGENCY_CANCELLED", M{"reasonCode": "false-alarm"})
	s.refused(s.patient, "EMERGENCY_CANCELLED", "ROLE_NOT_ALLOWED")
	s.closes(s.onCall[:]...)
}

func rejectedByAll(s *story) {
	first, second := s.onCall[0], s.onCall[1]
	s.raises(s.asNurse())
	s.begins()
	s.answers(s.app(first), first, "EMERGENCY_REJECTED", M{"reasonCode": "in-surgery"})
	s.announced("EMERGENCY_REJECTED", M{"userId": first})
	s.answers(s.via("on-call:"+second), second, "EMERGENCY_REJECTED")
	s.announced("EMERGENCY_REJECTED", M{"userId": second})
	s.announced("EMERGENCY_PAGED", M{"round": 2, "users": 1})
	s.pagedOnBoth(sharedSupervisor, 2) // nobody else is left
	s.answers(s.app(sharedSupervisor), sharedSupervisor, "EMERGENCY_ACCEPTED")
	s.announced("EMERGENCY_ACCEPTED", M{"userId": sharedSupervisor})
	s.told(first, "EMERGENCY_TAKEN", M{"acceptedBy": sharedSupervisor})
	s.told(second, "EMERGENCY_TAKEN")
	s.closes(first, second, sharedSupervisor)
}

func attendedAtOnce(s *story) {
	s.raises(s.asNurse())
	s.begins()
	s.answers(s.app(s.onCall[1]), s.onCall[1], "EMERGENCY_ATTENDED")
	s.announced("EMERGENCY_ATTENDED", M{"userId": s.onCall[1], "status": "attended"})
	s.told(s.onCall[0], "EMERGENCY_TAKEN")
	s.answers(s.app(s.onCall[0]), s.onCall[0], "EMERGENCY_REJECTED")
	s.refused(s.onCall[0], "EMERGENCY_REJECTED", "WRONG_STATE")
	s.closes(s.onCall[:]...)
}

func closed(s *story, action string, code M, outcome string) {
	s.raises(s.asNurse())
	s.begins()
	s.answers(s.via("provider:"+s.provider), s.provider, action, code)
	s.announced("EMERGENCY_CLOSED", M{"outcome": outcome, "status": "closed"})
	s.told(s.onCall[0], "EMERGENCY_CLOSED", M{"outcome": outcome})
	s.told(s.onCall[1], "EMERGENCY_CLOSED", M{"outcome": outcome})
	s.answers(s.app(s.onCall[0]), s.onCall[0], "EMERGENCY_ACCEPTED")
	s.refused(s.onCall[0], "EMERGENCY_ACCEPTED", "ESCALATION_CLOSED")
	s.nothingMore()
}

func severityChanges(s *story) {
	s.raises(s.asNurse(), M{"severity": "urgent"})
	s.announced("EMERGENCY_PAGED", M{"severity": "urgent"})
	s.everybodyPaged(1)
	s.answers(s.asNurse(), "nurse-lee", "EMERGENCY_SEVERITY_CHANGED", M{"severity": "life-threatening"})
	s.announced("EMERGENCY_SEVERITY_CHANGED", M{"from": "urgent", "severity": "life-threatening"})
	s.announced("EMERGENCY_PAGED", M{"round": 2, "severity": "life-threatening"})
	s.everybodyPaged(2)
	s.answers(s.asNurse(), "nurse-lee", "EMERGENCY_SEVERITY_CHANGED", M{"severity": "critical"})
	s.announced("EMERGENCY_SEVERITY_CHANGED", M{"severity": "critical"})
	s.closes(s.onCall[:]...)
}

func answeredForAnother(s *story) {
	first, second := s.onCall[0], s.onCall[1]
	s.raises(s.asNurse())
	s.begins()
	s.answers(s.app(first), second, "EMERGENCY_ACCEPTED")
	s.refused(first, "EMERGENCY_ACCEPTED", "WRONG_ACTOR")
	s.answers(s.via("on-call:"+first), second, "EMERGENCY_REJECTED")
	s.refused(first, "EMERGENCY_REJECTED", "WRONG_ACTOR")
	s.answers(s.via("backend:pager-gateway"), second, "EMERGENCY_ACCEPTED") // by a reply to the SMS
	s.announced("EMERGENCY_ACCEPTED", M{"userId": second})
	s.told(first, "EMERGENCY_TAKEN", M{"acceptedBy": second})
	s.closes(first, second)
}

func unknownEscalation(s *story) {
	s.escalation = "esc-nobody-raised"
	s.answers(s.app(s.onCall[0]), s.onCall[0], "EMERGENCY_ACCEPTED")
	s.refused(s.onCall[0], "EMERGENCY_ACCEPTED", "UNKNOWN_ESCALATION")
	s.raises(s.asNurse())
	s.begins()
	s.closes(s.onCall[:]...)
}

func wrongClock(s *story) {
	s.raises(s.app(s.patient), M{"escalatedBy": s.patient, "timestamp": "2001-01-01T00:00:00Z"})
	s.begins()
	s.closes(s.onCall[:]...)
}

// Nobody answers: pages go out again and again, soon to the failsafe too, and stop with the answer.
func TestUnansweredEmergencies(t *testing.T) {
	t.Parallel()
	h := open(t, build{paging: "  re_page: {critical: 1s, urgent: 30m}\n  failsafe_after: 2\n"})
	h.tell(map[string]func(*story){
		"unanswered": func(s *story) {
			s.raises(s.asNurse())
			s.begins()
			s.announced("EMERGENCY_PAGED", M{"round": 2, "users": 2})
			s.everybodyPaged(2)
			s.announced("EMERGENCY_PAGED", M{"round": 3, "users": 3})
			s.everybodyPaged(3)
			s.pagedOnBoth(sharedSupervisor, 3)
			s.announced("EMERGENCY_PAGED", M{"round": 4, "users": 3}) // and so on
			accepts := s.via("on-call:" + sharedSupervisor)
			s.answers(accepts, sharedSupervisor, "EMERGENCY_ACCEPTED")
			s.drainRounds("EMERGENCY_ACCEPTED")
			s.announced("EMERGENCY_ACCEPTED", M{"userId": sharedSupervisor})
			for _, p := range s.onCall {
				s.claimAll("notification."+p, "EMERGENCY_ESCALATION")
				s.told(p, "EMERGENCY_TAKEN", M{"acceptedBy": sharedSupervisor})
			}
			s.settlePages()
			s.closes(s.onCall[0], s.onCall[1], sharedSupervisor)
		},
		"accepted late": func(s *story) {
			s.raises(s.asNurse())
			s.begins()
			s.announced("EMERGENCY_PAGED", M{"round": 2})
			s.everybodyPaged(2)
			s.answers(s.app(s.onCall[0]), s.onCall[0], "EMERGENCY_ACCEPTED")
			s.drainRounds("EMERGENCY_ACCEPTED")
			s.announced("EMERGENCY_ACCEPTED")
			s.claimAll("notification."+s.onCall[1], "EMERGENCY_ESCALATION")
			s.told(s.onCall[1], "EMERGENCY_TAKEN")
			s.settlePages()
			// The timer that was running is stale now: a second accept is the fence behind it.
			s.answers(s.via("backend:ehr"), "ehr", "EMERGENCY_CANCELLED", M{"reasonCode": "false-alarm"})
			s.announced("EMERGENCY_CLOSED", M{"outcome": "cancelled"})
			s.told(s.onCall[0], "EMERGENCY_CLOSED")
			s.told(s.onCall[1], "EMERGENCY_CLOSED")
			// If a round had reached the failsafe before the answer did, which a busy machine decides.
			s.house.fence(s, s.emergency())
			s.claimAll("notification."+sharedSupervisor, "EMERGENCY_TAKEN")
			s.claimAll("notification."+sharedSupervisor, "EMERGENCY_CLOSED")
			s.nothingMore()
		},
		"nobody is on call": func(s *story) {
			s.department = "night-" + s.department // of which the configuration knows nothing
			s.raises(s.asNurse(), M{"severity": "urgent"})
			s.announced("EMERGENCY_PAGED", M{"round": 1, "users": 1})
			s.pagedOnBoth(sharedSupervisor, 1)
			s.closes(sharedSupervisor)
		},
		"asked for in a visit that nobody knows": func(s *story) {
			s.asPatient()(s.visit(), M{"action": "EMERGENCY_REQUESTED", "severity": "urgent"})
			s.department = "lobby" // the default
			s.announced("EMERGENCY_PAGED", M{"round": 1, "users": 1, "severity": "urgent", "consultationId": s.visit()})
			s.escalation = fmt.Sprint(s.house.ear.on(s.emergency())[0]["escalationId"])
			s.pagedOnBoth(sharedSupervisor, 1)
			s.closes(sharedSupervisor)
		},
	})
	h.judge()
}

// drainRounds names further rounds, of which nobody knows how many there were before somebody's answer.
func (s *story) drainRounds(until string) {
	s.t.Helper()
	s.house.ear.await(s.t, until, func() (bool, string) {
		s.claimAll(s.emergency(), "EMERGENCY_PAGED")
		list := s.on(s.emergency())
		return len(list) > s.claimed[s.emergency()], s.summary()
	})
}

// settlePages names the pages of further rounds; each must be of a round that was announced.
func (s *story) settlePages() {
	s.t.Helper()
	s.house.fence(s, s.emergency())
	s.house.ear.catchUp(s.t)
	rounds := map[string]bool{}
	for _, m := range s.on(s.emergency()) {
		rounds[fmt.Sprint(m["round"])] = true
	}
	for _, p := range []string{s.onCall[0], s.onCall[1], sharedSupervisor} {
		for _, channel := range []string{"notification." + p, "page.sms." + p} {
			before := s.claimed[channel]
			s.claimAll(channel, "EMERGENCY_ESCALATION")
			for _, m := range s.on(channel)[before:s.claimed[channel]] {
				if !rounds[fmt.Sprint(m["round"])] && m["round"] != nil {
					s.t.Errorf("a page of a round that nobody announced: %v", m)
				}
			}
		}
	}
}

// rota is the clinic's own system that knows who is on call.
type rota struct {
	server *httptest.Server
	down   atomic.Bool
	mu     sync.Mutex
	asked  map[string]int
	hold   map[string]chan struct{} // departments whose answer is held back
}

func startRota(t *testing.T) *rota {
	r := &rota{asked: map[string]int{}, hold: map[string]chan struct{}{}}
	r.server = httptest.NewServer(http.HandlerFunc(r.answer))
	t.Cleanup(r.server.Close)
	return r
}

func (r *rota) answer(w http.ResponseWriter, q *http.Request) {
	department := path.Base(q.URL.Path)
	r.mu.Lock()
	r.asked[department]++
	hold := r.hold[department]
	r.mu.Unlock()
	number := strings.TrimPrefix(department, "dept-")
	switch {
	case hold != nil:
		select {
		case <-hold:
		case <-q.Context().Done():
			return
		}
	case r.down.Load() || strings.HasPrefix(department, "down-"):
		http.Error(w, "maintenance", http.StatusServiceUnavailable)
		return
	case strings.HasPrefix(department, "empty-"):
		_ = json.NewEncoder(w).Encode(M{"providers": []M{}})
		return
	}
	_ = json.NewEncoder(w).Encode(M{"providers": []M{{"id": "dr-chen-" + number}, {"id": "dr-silva-" + number}}})
}

// The clinic's own system says who is on call, or it does not.
func TestEmergenciesWithARota(t *testing.T) {
	t.Parallel()
	r := startRota(t)
	h := open(t, build{
		paging: fmt.Sprintf("  source: {url: %q, timeout: 10s, cache: 1h}\n", r.server.URL+"/api/on-call/{departmentId}"),
		allow:  []string{"on-call source gave no answer"},
	})
	h.tell(map[string]func(*story){
		"the rota answers": func(s *story) {
			s.raises(s.asNurse())
			s.begins()
			s.answers(s.app(s.onCall[0]), s.onCall[0], "EMERGENCY_ACCEPTED") // on no list: whoever was paged may answer
			s.announced("EMERGENCY_ACCEPTED")
			s.told(s.onCall[1], "EMERGENCY_TAKEN")
			s.closes(s.onCall[:]...)
		},
		"the rota names nobody": func(s *story) {
			s.department = "empty-" + s.department
			s.raises(s.asNurse())
			s.announced("EMERGENCY_PAGED", M{"round": 1, "users": 1})
			s.pagedOnBoth(sharedSupervisor, 1)
			s.closes(sharedSupervisor)
		},
		"the rota is down and has never answered": func(s *story) {
			s.department = "down-" + s.department
			s.raises(s.asNurse())
			s.announced("EMERGENCY_PAGED", M{"round": 1, "users": 1})
			s.pagedOnBoth(sharedSupervisor, 1)
			s.closes(sharedSupervisor)
		},
		"the rota is slow: the failsafe first, the others when it answers": func(s *story) {
			hold := make(chan struct{})
			r.mu.Lock()
			r.hold[s.department] = hold
			r.mu.Unlock()
			s.raises(s.asNurse())
			s.announced("EMERGENCY_PAGED", M{"round": 1, "users": 1})
			s.pagedOnBoth(sharedSupervisor, 1)
			close(hold)
			s.announced("EMERGENCY_PAGED", M{"round": 1, "users": 2})
			s.everybodyPaged(1)
			s.closes(sharedSupervisor, s.onCall[0], s.onCall[1])
		},
		"accepted before the rota answers": func(s *story) {
			hold := make(chan struct{})
			r.mu.Lock()
			r.hold[s.department] = hold
			r.mu.Unlock()
			s.t.Cleanup(func() { close(hold) })
			s.raises(s.asNurse())
			s.answers(s.via("on-call:"+s.onCall[0]), s.onCall[0], "EMERGENCY_ACCEPTED")
			s.announced("EMERGENCY_ACCEPTED", M{"userId": s.onCall[0]})
			s.closes(s.onCall[0])
		},
	})
	s := h.story(t) // the rota answers once, and is down the next time
	s.raises(s.asNurse())
	s.begins()
	s.closes(s.onCall[:]...)
	r.down.Store(true)
	s.escalation = ""
	s.raises(s.asNurse(), M{"id": "esc-second"})
	s.escalation = "esc-second"
	s.begins() // from the last good answer
	s.closes(s.onCall[:]...)
	r.mu.Lock()
	if r.asked[s.department] != 2 {
		t.Errorf("the rota was asked %d times, want once for each emergency", r.asked[s.department])
	}
	r.mu.Unlock()
	h.judge()
}
