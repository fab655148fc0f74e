-- Sends a study to the modality 'dawson' once nothing has come for StableAge seconds, and waits for its results.
-- Results that Dawson files make the study unstable and stable again: without the look at them every result would
-- start the next run.
function OnStableStudy(studyId, tags, metadata, origin)
  local hasImages = false
  for _, series in ipairs(ParseJson(RestApiGet('/studies/' .. studyId .. '/series'))) do
    local of = series['MainDicomTags']
    if of['Modality'] == 'MR' then hasImages = true end
    if of['Manufacturer'] == 'Dawson' then return end
  end
  if hasImages then
    RestApiPost('/modalities/dawson/store', DumpJson({ Resources = { studyId }, Synchronous = false }))
  end
end
