-- Orthanc script: sends each CT series to `ctvae listen` when it is stable, once. See docs/triggers.md.
--
--   "LuaScripts": ["/etc/orthanc/ctvae.lua"],
--   "DicomModalities": {"ctvae": ["CTVAE", "10.0.0.7", 11112]}

TARGET = 'ctvae'  -- the listener's name in DicomModalities

CT_CLASSES = {
  ['1.2.840.10008.5.1.4.1.1.2'] = true,    -- CT Image Storage
  ['1.2.840.10008.5.1.4.1.1.2.1'] = true,  -- Enhanced CT Image Storage
  ['1.2.840.10008.5.1.4.1.1.2.2'] = true,  -- Legacy Converted Enhanced CT Image Storage
}

function OnStableSeries(seriesId, tags, metadata)
  -- The SR that comes back becomes a stable series too: without this it would trigger us again.
  if tags['Modality'] ~= 'CT' then
    return
  end
  -- Screenshots and dose reports of a scanner are of modality CT as well; the listener does not accept them.
  local first = ParseJson(RestApiGet('/series/' .. seriesId))['Instances'][1]
  if CT_CLASSES[RestApiGet('/instances/' .. first .. '/metadata/SopClassUid')] then
    local asked = DumpJson({Resources = {seriesId}, Asynchronous = true})
    RestApiPost('/modalities/' .. TARGET .. '/store', asked)
  end
end
